"""Moves a file or directory, across file systems too, without ever losing data or following a link."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator


def move(source: str, target: str) -> None:
    """Rename, or copy in full and remove the original where the two lie on different file systems.

    Raises:
        OSError: It failed; the source is then still complete at its place.
    """
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    else:
        return
    partial = target + ".partial"
    try:
        if os.path.isdir(source) and not is_link(source):
            shutil.copytree(source, partial, symlinks=True)
        else:
            shutil.copy2(source, partial, follow_symlinks=False)
        _sync(partial)
        os.rename(partial, target)
    except BaseException:  # also Ctrl-C: no half copy stays, and the fault goes on to the caller
        _discard(partial)
        raise
    # Aside first, by one rename: at no moment is a half-removed directory at the place where the next attempt looks.
    aside = f"{source}.moved-{secrets.token_hex(4)}"
    os.rename(source, aside)
    _discard(aside)


def _discard(path: str) -> None:
    """Remove a copy of ours or an original whose copy is complete."""
    if os.path.isdir(path) and not is_link(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def _sync(path: str) -> None:
    for file in regular_files(path):
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def regular_files(source: str) -> Iterator[str]:
    """Yield the regular files at and below a path without following links."""
    if stat.S_ISREG(os.lstat(source).st_mode):
        yield source
    if is_link(source):
        return
    for directory, _, names in os.walk(source, followlinks=False):
        for name in names:
            path = os.path.join(directory, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                yield path


def is_link(path: str) -> bool:
    """Whether a path is a symbolic link itself."""
    return os.path.lexists(path) and stat.S_ISLNK(os.lstat(path).st_mode)
