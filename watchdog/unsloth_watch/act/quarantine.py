"""Moves what is in the way into a run's quarantine, and back. Nothing is deleted, no held lock is moved, no link is followed.

A manifest says where each thing came from, so that ``restore`` and a person can put it back.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shlex
from collections.abc import Iterable

import msgspec

from unsloth_watch.act.change import Change, MendError
from unsloth_watch.act.move import is_link, move, regular_files

MANIFEST = "manifest.json"
MAX_FILES = 20_000
"""Files looked at below a directory for locks that somebody holds; a larger one is not moved unasked."""


class Entry(msgspec.Struct, frozen=True):
    """One line of the manifest: where a thing was and where it is now (relative to the manifest)."""

    original: str
    kept: str


def quarantine(path: str, quarantine_dir: str, *, keep: Iterable[str] = ()) -> Change:
    """Move a file or directory into the quarantine directory; a link is moved itself, never what it leads to.

    Args:
        path: Absolute path.
        quarantine_dir: Where it goes; made where it is missing.
        keep: Directories that are never moved, nor anything that holds them.

    Raises:
        MendError: It may not be moved: it is or holds the home directory, the root, a kept directory or the quarantine itself,
            it is no absolute path, its lock is held, or it is too large to be looked through.
        OSError: It cannot be moved.
    """
    source = _check_path(path, quarantine_dir, keep)
    held = _find_held_lock(source)
    if held is not None:
        raise MendError(f"{path} stays: a process holds the lock of {held}; end that process first")
    os.makedirs(quarantine_dir, mode=0o700, exist_ok=True)
    kept = f"{secrets.token_hex(4)}-{os.path.basename(source)}"
    # The manifest first: after a crash in between it names a thing that is still at its place, which restore passes over.
    _write_manifest(quarantine_dir, (*read_manifest(quarantine_dir), Entry(source, kept)))
    target = os.path.join(quarantine_dir, kept)
    move(source, target)
    return Change(source, "quarantine", source, target, f"mv {shlex.quote(target)} {shlex.quote(source)}")


def restore(quarantine_dir: str) -> tuple[str, ...]:
    """Put everything in a quarantine directory back where it came from; return what was restored.

    What is in the way there now is left alone, and so is its predecessor in the quarantine.
    """
    restored, left = [], []
    for entry in reversed(read_manifest(quarantine_dir)):
        kept = os.path.join(quarantine_dir, entry.kept)
        if os.path.lexists(kept) and not os.path.lexists(entry.original):
            os.makedirs(os.path.dirname(entry.original), exist_ok=True)
            move(kept, entry.original)
            restored.append(entry.original)
        elif os.path.lexists(kept):
            left.append(entry)
    _write_manifest(quarantine_dir, tuple(reversed(left)))
    return tuple(restored)


def read_manifest(quarantine_dir: str) -> tuple[Entry, ...]:
    """Return what is in a quarantine directory, oldest first; empty where there is no manifest.

    Raises:
        MendError: The manifest cannot be understood.
    """
    path = os.path.join(quarantine_dir, MANIFEST)
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=tuple[Entry, ...])
    except FileNotFoundError:
        return ()
    except msgspec.MsgspecError as error:
        raise MendError(f"{path} cannot be understood ({error}); what it lists has to be put back by hand") from error


def _write_manifest(quarantine_dir: str, entries: tuple[Entry, ...]) -> None:
    path = os.path.join(quarantine_dir, MANIFEST)
    with open(path + ".new", "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(entries)))
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".new", path)


def _check_path(path: str, quarantine_dir: str, keep: Iterable[str]) -> str:
    """Return the path with the links above its last part resolved.

    Raises:
        MendError: It may not be moved.
    """
    if not os.path.isabs(path) or os.path.basename(path.rstrip("/")) in {"", ".", ".."}:
        raise MendError(f"{path!r} stays: only an absolute path to one thing can be moved aside")
    path = path.rstrip("/")
    source = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    if not os.path.lexists(source):
        raise MendError(f"{path} is not there any more")
    if is_link(source):
        return source
    for kept in (os.path.expanduser("~"), "/proc/self/cwd", quarantine_dir, *keep):
        real = os.path.realpath(kept)
        if real == source or real.startswith(source + "/"):
            raise MendError(f"{path} stays: {real} is in it")
    if os.path.ismount(source):
        raise MendError(f"{path} stays: a file system is mounted there")
    return source


def _find_held_lock(source: str) -> str | None:
    """Return a regular file at or below a path whose flock or fcntl lock a process holds, None if there is none.

    Each is asked without waiting. A lock that we get is given back at once by closing, before anything is moved: nobody of the job
    lives, and a stranger who comes in between takes it on the same inode.

    Raises:
        MendError: There are too many files.
    """
    count = 0
    for file in regular_files(source):
        count += 1
        if count > MAX_FILES:
            raise MendError(f"{source} stays: it holds more than {MAX_FILES} files; move it aside by hand")
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue  # unreadable for us: then nothing of this user's job can have locked it either
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_held = _has_fcntl_lock(file)
        except OSError as error:
            is_held = error.errno in {errno.EAGAIN, errno.EACCES}
        finally:
            os.close(descriptor)
        if is_held:
            return file
    return None


def _has_fcntl_lock(file: str) -> bool:
    """Whether a POSIX lock is held on a file; an exclusive one can only be asked for on a writable descriptor."""
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in {errno.EAGAIN, errno.EACCES}
    finally:
        os.close(descriptor)
    return False
