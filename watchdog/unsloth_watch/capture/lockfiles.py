"""Lock files whose mere existence is the lock: who made them, and whether anybody still has them open."""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Iterable, Sequence

from unsloth_watch.model.evidence import LockFile

MAX_DIRECTORIES = 400
"""Directories walked below one cache: a hub cache with 400 models takes some milliseconds on a local disk."""
MAX_PROCESSES = 5000
"""Processes asked for their open files. One with 50 descriptors takes about 0.1 ms."""
_MAX_TEXT = 1024


def list_directories(top: str, depth: int, limit: int = MAX_DIRECTORIES) -> list[str]:
    """Return ``top`` and the directories below it down to ``depth`` levels, without following links; hidden ones first."""
    found, level = [top], [top]
    for _ in range(depth):
        below: list[str] = []
        for directory in level:
            try:
                with os.scandir(directory) as entries:
                    below += sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
            except OSError:
                continue
            if len(found) + len(below) >= limit:
                break
        found += below
        level = below
    return found[:limit]


def find_lock_files(directories: Iterable[str], names: Sequence[str]) -> list[str]:
    """Return the regular files in the directories whose name is one of ``names`` or ends like one that begins with a dot."""
    found = []
    for directory in directories:
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    is_named = any(entry.name == name or (name.startswith(".") and entry.name.endswith(name)) for name in names)
                    if is_named and entry.is_file(follow_symlinks=False):
                        found.append(entry.path)
        except OSError:
            continue
    return sorted(found)


def describe_lock_files(paths: Sequence[str]) -> tuple[LockFile, ...]:
    """Return what can be said of lock files; those that vanish meanwhile are left out."""
    if not paths:
        return ()
    openers = _find_openers(paths)
    now = time.time()
    found = []
    for path in paths:
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            continue
        owner, host = _read_owner(path) if stat.S_ISREG(status.st_mode) else (None, None)
        is_ours = host is None or host.partition("?")[0] == socket.gethostname()
        is_alive = None if owner is None or not is_ours else os.path.exists(f"/proc/{owner}")
        holders = None if openers is None else tuple(sorted(openers.get((status.st_dev, status.st_ino), ())))
        found.append(LockFile(path, max(0.0, now - status.st_mtime), holders, owner, is_alive))
    return tuple(found)


def _read_owner(path: str) -> tuple[int | None, str | None]:
    """Return the PID and the host that a soft lock names: two lines, or PID alone; (None, None) for any other text."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None, None
    try:
        words = os.read(file, _MAX_TEXT).decode("utf-8", "replace").split()
    except OSError:
        return None, None
    finally:
        os.close(file)
    if not words or not words[0].isdecimal() or int(words[0]) >= 1 << 31:
        return None, None
    return int(words[0]), words[1] if len(words) > 1 else None


def _find_openers(paths: Sequence[str]) -> dict[tuple[int, int], set[int]] | None:
    """Return the PIDs that have each file (device, inode) open; None where a process that may be the maker could not be asked."""
    wanted: dict[tuple[int, int], set[int]] = {}
    owners = set()
    for path in paths:
        try:
            status = os.lstat(path)
        except OSError:
            continue
        wanted[status.st_dev, status.st_ino] = set()
        owners.add(status.st_uid)
    names = {os.path.realpath(path) for path in paths}
    pids = [name for name in os.listdir("/proc") if name.isdecimal()]
    is_complete = len(pids) <= MAX_PROCESSES
    for pid in pids[:MAX_PROCESSES]:
        try:
            for file in _open_files(pid, names):
                wanted.setdefault(file, set()).add(int(pid))
        except (FileNotFoundError, ProcessLookupError):
            continue
        except OSError:
            # The maker of a file has its owner's user id; any other user's process may keep its descriptors to itself. So may
            # init, which is often closed even to root (seen in a container) and builds nothing.
            is_complete = is_complete and (pid == "1" or _read_owner_of(pid) not in owners)
    return wanted if is_complete or any(wanted.values()) else None


def _open_files(pid: str, names: set[str]) -> list[tuple[int, int]]:
    """Return device and inode of the open files of a process that have one of the names.

    Raises:
        OSError: Its descriptors may not be read.
    """
    found = []
    with os.scandir(f"/proc/{pid}/fd") as descriptors:
        for descriptor in descriptors:
            try:
                if os.readlink(descriptor.path) in names:
                    status = os.stat(descriptor.path)
                    found.append((status.st_dev, status.st_ino))
            except FileNotFoundError:
                continue  # closed meanwhile
    return found


def _read_owner_of(pid: str) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None
