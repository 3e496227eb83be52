"""``/proc/locks`` joined to paths, holders and the job.

A line names a file by device and inode only. On overlayfs and btrfs that device is not the one that ``stat`` shows, so a path is
found in this order: the lock lines in the ``fdinfo`` of the open files themselves (exact), then the inode among the job's open
files, then lock files in given directories; a path that was matched by its inode alone is accepted only when no other path has
that inode.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from unsloth_watch.capture.descriptors import OpenFile
from unsloth_watch.capture.text import decode
from unsloth_watch.capture.waits import read_file
from unsloth_watch.model.evidence import FileLock

MAX_LOCK_FILES = 2000
"""Entries looked at in each given directory."""


class LockLine(msgspec.Struct, frozen=True):
    """One line.

    Attributes:
        kind: FLOCK, POSIX or OFDLCK (leases are left out: nobody waits for them in flock or fcntl).
        mode: READ or WRITE.
        pid: Process that took it or waits; -1 for OFDLCK and where the kernel hides it.
        device: ``major:minor`` in hexadecimal.
        inode: Inode number.
        is_waiter: Whether it is a blocked request.
        start: First byte; None if the line does not say it.
    """

    kind: str
    mode: str
    pid: int
    device: str
    inode: int
    is_waiter: bool = False
    start: int | None = None

    @property
    def file(self) -> tuple[str, int]:
        """Device and inode."""
        return self.device, self.inode


def parse_locks(text: str) -> tuple[LockLine, ...]:
    """Return the lines that can be understood, in order: ``1: -> FLOCK  ADVISORY  WRITE 12 fe:00:34 0 EOF``."""
    lines = []
    for line in text.splitlines():
        words = line.split()[1:]
        is_waiter = words[:1] == ["->"]
        words = words[1:] if is_waiter else words
        if len(words) < 5 or words[0] not in {"FLOCK", "POSIX", "OFDLCK"} or words[2] not in {"READ", "WRITE"}:
            continue
        device, _, inode = words[4].rpartition(":")
        try:
            pid, number = int(words[3]), int(inode)
        except ValueError:
            continue
        if 0 <= number < 1 << 63 and -1 <= pid < 1 << 31 and device.count(":") == 1:
            start = int(words[5]) if len(words) > 5 and words[5].isdecimal() else None
            lines.append(LockLine(words[0], words[2], pid, device, number, is_waiter, start))
    return tuple(lines)


def read_locks() -> tuple[LockLine, ...]:
    """Return the locks of the machine as far as this PID namespace sees them.

    Raises:
        OSError: ``/proc/locks`` may not be read.
    """
    return parse_locks(decode(read_file("/proc/locks")))


class LockedFile(msgspec.Struct, frozen=True):
    """A file that is known by its path.

    Attributes:
        path: Path.
        inode: Inode number.
        device: ``major:minor`` in hexadecimal as ``stat`` shows it; None if unknown.
        held: Its locks by the open file's own ``fdinfo``, and the process that has it open.
        pid: Process that has it open; None for a file found in a directory.
    """

    path: str
    inode: int
    device: str | None = None
    held: tuple[LockLine, ...] = ()
    pid: int | None = None


def list_open_files(open_files: Mapping[int, Sequence[OpenFile]]) -> list[LockedFile]:
    """Return the files of the job's processes (by PID) that a lock could be on."""
    return [
        LockedFile(file.target, file.inode, None, parse_locks("\n".join(file.locks)), pid)
        for pid, files in open_files.items()
        for file in files
        if file.inode is not None and file.target.startswith("/")
    ]


def list_lock_files(directories: Iterable[str], limit: int = MAX_LOCK_FILES) -> list[LockedFile]:
    """Return the files in the given directories; it asks their file systems, so call it within a deadline."""
    found = []
    for directory in directories:
        try:
            with os.scandir(directory) as entries:
                for _, entry in zip(range(limit), entries, strict=False):
                    if entry.is_file(follow_symlinks=False):
                        status = entry.stat(follow_symlinks=False)
                        device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
                        found.append(LockedFile(entry.path, status.st_ino, device))
        except OSError:
            continue
    return found


def join_locks(lines: Sequence[LockLine], files: Sequence[LockedFile], members: Collection[int]) -> tuple[FileLock, ...]:
    """Return the locks that concern the job: its own, and all others on the same files and on the given ones.

    Args:
        lines: All of the machine.
        files: Files of the job and lock files of given directories.
        members: PIDs of the job.
    """
    paths = {line.file: path for line, path in _match(lines, files)}
    concerned = {line.file for line in lines if line.pid in members or line.file in paths}
    holders = {(line.kind, line.file): file.pid for file in files for line in file.held if file.pid is not None}
    locks = []
    for line in lines:
        if line.file not in concerned:
            continue
        pid = line.pid
        opener = holders.get((line.kind, line.file))
        # An OFDLCK has no PID, and a flock keeps the PID of the process that took it even after that has ended and a child which
        # inherited the descriptor holds it: then the process that has the open file is the holder.
        if not line.is_waiter and opener is not None and not is_there(pid):
            pid = opener
        locks.append(
            FileLock(
                line.kind,
                line.mode,
                pid,
                line.device,
                line.inode,
                paths.get(line.file),
                line.is_waiter,
                read_command_line(pid),
                pid in members,
                line.start,
            )
        )
    return tuple(locks)


def _match(lines: Sequence[LockLine], files: Sequence[LockedFile]) -> Iterable[tuple[LockLine, str]]:
    """Yield the lines whose path is known, the weakest matches first so that a stronger one replaces them."""
    by_inode: dict[int, set[str]] = {}
    by_file: dict[tuple[str, int], str] = {}
    for file in files:
        by_inode.setdefault(file.inode, set()).add(file.path)
        if file.device is not None:
            by_file[file.device, file.inode] = file.path
        for held in file.held:
            by_file[held.file] = file.path
    for line in lines:
        names = by_inode.get(line.inode, set())
        if line.file in by_file:
            yield line, by_file[line.file]
        elif len(names) == 1:
            yield line, next(iter(names))


def is_there(pid: int) -> bool:
    """Return whether a process exists and is no zombie that has closed its files."""
    return pid > 0 and os.path.exists(f"/proc/{pid}/fd")


def read_command_line(pid: int) -> str | None:
    """Return a command line for people; it takes the process's mmap_lock, so the caller has a deadline."""
    if pid <= 0:
        return None
    try:
        raw = read_file(f"/proc/{pid}/cmdline")
    except OSError:
        return None
    return decode(raw.rstrip(b"\0").replace(b"\0", b" ")) or None
