"""Entries of a cache: what goes as one when it is pruned, with size and last use. Links are never followed."""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections.abc import Iterator

import msgspec

from unsloth_watch.capture.cacheregistry import CacheKind

ASIDE = ".unsloth-watch-prune-"
"""Beginning of the name of an entry that is being deleted; what a crash left of it is an entry of its own."""
_SIGN_LEVELS = 3


class Extent(msgspec.Struct, frozen=True):
    """What a directory tree holds.

    Attributes:
        size_bytes: Space that it takes on the disk; files with several names below it count once.
        files: Number of regular files.
        last_use: Newest access, change or arrival of a file (``atime``, ``mtime``, ``ctime``), Unix seconds; 0 for an empty tree.
            Access is only as fine as the mount's ``relatime`` keeps it, a day, and not kept at all with ``noatime``. ``ctime``
            cannot be set: what ``tar`` or ``rsync -a`` brought today with its old times is not old here.
        owners: User ids of what is in it.
        inodes: Device and inode of every regular file.
        is_complete: False where a directory could not be read.
    """

    size_bytes: int = 0
    files: int = 0
    last_use: float = 0.0
    owners: frozenset[int] = frozenset()
    inodes: frozenset[tuple[int, int]] = frozenset()
    is_complete: bool = True


class Entry(msgspec.Struct, frozen=True):
    """A part of a cache that comes and goes as one.

    Attributes:
        path: Real path.
        extent: What it holds.
        blobs: Files elsewhere in the cache that only this entry leads to (a hub revision's), deleted with it.
        links: Further files that lead to it and would lead nowhere: a hub revision's refs.
        name: What people call it; empty for its path below the cache.
        guard: Directory of the lock files that whoever fills it holds; empty where they lie in it.
    """

    path: str
    extent: Extent
    blobs: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    name: str = ""
    guard: str = ""


def measure(path: str) -> Extent:
    """Return what a file or a directory tree holds; other file systems that are mounted below it are left out."""
    try:
        top = os.lstat(path)
    except OSError:
        return Extent(is_complete=False)
    inodes: set[tuple[int, int]] = set()
    owners, size, last, is_complete = {top.st_uid}, 0, 0.0, True
    pending = [path] if stat.S_ISDIR(top.st_mode) else []
    found = [] if pending else [top]
    while pending or found:
        for status in found:
            owners.add(status.st_uid)
            if stat.S_ISREG(status.st_mode):
                last = max(last, status.st_atime, status.st_mtime, status.st_ctime)
                if (status.st_dev, status.st_ino) not in inodes:
                    inodes.add((status.st_dev, status.st_ino))
                    size += status.st_blocks * 512
        found = []
        if pending:
            directory = pending.pop()
            try:
                with os.scandir(directory) as entries:
                    for entry in entries:
                        status = entry.stat(follow_symlinks=False)
                        found.append(status)
                        if stat.S_ISDIR(status.st_mode) and status.st_dev == top.st_dev:
                            pending.append(entry.path)
            except OSError:
                is_complete = False
    return Extent(size, len(inodes), last, frozenset(owners), frozenset(inodes), is_complete)


def list_entries(kind: CacheKind, top: str) -> tuple[Entry, ...]:
    """Return the entries of a cache that its layout makes recognisable; whatever else lies there is no entry."""
    found = []
    for path in _list_below(os.path.realpath(top), max((pattern.count("/") for pattern in kind.entries), default=0)):
        relative = os.path.relpath(path, os.path.realpath(top))
        is_left_over = os.path.basename(path).startswith(ASIDE)
        is_named = any(re.fullmatch(pattern, relative) for pattern in kind.entries)
        is_own_work = (bool(kind.veto) and has_sign(path, kind.veto)) or not _is_filled_as_meant(path, kind)
        if is_left_over or (is_named and (not kind.sign or has_sign(path, kind.sign)) and not is_own_work):
            found.append(Entry(path, measure(path)))
    return tuple(found)


def _is_filled_as_meant(path: str, kind: CacheKind) -> bool:
    """Whether a directory of two letters holds what the cache puts there and nothing else; True for any other directory."""
    name = os.path.basename(path)
    if not kind.shard or len(name) != 2:
        return True
    try:
        names = os.listdir(path)
    except OSError:
        return False
    own = [one for one in names if re.match(kind.shard.format(name=name), one)]
    return bool(own) and all(one in own or re.match(kind.beside, one) for one in names)


def has_sign(path: str, sign: str) -> bool:
    """Whether a directory holds a regular file of that name, up to three levels below it."""
    level = [path]
    for _ in range(_SIGN_LEVELS + 1):
        below: list[str] = []
        for directory in level:
            try:
                with os.scandir(directory) as entries:
                    for entry in entries:
                        if entry.is_file(follow_symlinks=False) and fnmatch.fnmatch(entry.name, sign):
                            return True
                        if entry.is_dir(follow_symlinks=False):
                            below.append(entry.path)
            except OSError:
                continue
        level = below
    return False


def _list_below(top: str, depth: int) -> Iterator[str]:
    """Yield directories below ``top``, down to so many levels of them between."""
    try:
        with os.scandir(top) as entries:
            names = sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return
    for path in names:
        yield path
        if depth > 0 and not os.path.basename(path).startswith(ASIDE):
            yield from _list_below(path, depth - 1)
