"""Open descriptors of a process: what they point to, position, flags, inode, locks and watched descriptors.

All from ``/proc/PID/fd`` and ``fdinfo``: nothing here calls a file system, so nothing here can hang on one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec

from unsloth_watch.capture.text import decode
from unsloth_watch.capture.waits import read_file
from unsloth_watch.model.evidence import Connection, Descriptor

MAX_DESCRIPTORS = 4096
"""Descriptors read of one process; 4096 take about 80 ms."""


class OpenFile(msgspec.Struct, frozen=True):
    """A descriptor with what only its ``fdinfo`` tells.

    Attributes:
        fd: Number.
        target: Path, ``pipe:[n]``, ``socket:[n]`` or ``anon_inode:…``.
        offset: Position.
        flags: Flags of ``open(2)``.
        inode: Inode number (kernel 5.14 and later).
        mount: Id of its mount.
        locks: Lines in the form of ``/proc/locks`` of the locks that are held **through this open file**, whoever took them.
        watched: Descriptors that an epoll descriptor watches.
        object: ``eventfd 7`` (its number in the kernel) or ``pidfd 4711``, whose link names no inode; None for all else.
    """

    fd: int
    target: str
    offset: int | None = None
    flags: int | None = None
    inode: int | None = None
    mount: int | None = None
    locks: tuple[str, ...] = ()
    watched: tuple[int, ...] = ()
    object: str | None = None

    def to_descriptor(self, connections: Mapping[int, Connection]) -> Descriptor:
        """Return it as a border value, with what is known of a socket by its inode."""
        inode = self.target[8:-1] if self.target.startswith("socket:[") else ""
        connection = connections.get(int(inode)) if inode.isdecimal() else None
        return Descriptor(
            self.fd, self.target, self.offset, self.flags, self.object if connection is None else str(connection), connection
        )


def parse_fdinfo(fd: int, target: str, raw: bytes) -> OpenFile:
    """Return a descriptor from its ``fdinfo``; a line that cannot be understood leaves its value unknown."""
    numbers: dict[str, int] = {}
    locks: list[str] = []
    watched: list[int] = []
    stands_for: str | None = None
    for line in decode(raw).splitlines():
        name, _, value = line.partition(":")
        value = value.strip()
        if name == "lock":
            locks.append(value)
        elif name == "tfd":
            number = value.partition(" ")[0]
            if number.isdecimal():
                watched.append(int(number))
        elif name in {"eventfd-id", "Pid"} and target.startswith("anon_inode:"):
            stands_for = f"{'pidfd' if name == 'Pid' else 'eventfd'} {value}"
        elif name in {"pos", "flags", "ino", "mnt_id"}:
            try:
                numbers[name] = int(value, 8 if name == "flags" else 10)
            except ValueError:
                continue
    return OpenFile(
        fd,
        target,
        offset=numbers.get("pos"),
        flags=numbers.get("flags"),
        inode=numbers.get("ino"),
        mount=numbers.get("mnt_id"),
        locks=tuple(locks),
        watched=tuple(watched),
        object=stands_for,
    )


def read_open_file(pid: int, fd: int) -> OpenFile | None:
    """Return one descriptor; None when it is closed or may not be read."""
    try:
        target = decode(os.readlink(f"/proc/{pid}/fd/{fd}".encode()))
    except OSError:
        return None
    try:
        raw = read_file(f"/proc/{pid}/fdinfo/{fd}")
    except OSError:
        raw = b""
    return parse_fdinfo(fd, target, raw)


def read_open_files(pid: int, limit: int = MAX_DESCRIPTORS) -> tuple[OpenFile, ...]:
    """Return the descriptors of a process in order, the lowest ``limit`` of them.

    Raises:
        OSError: There is no such process, or its descriptors may not be read.
    """
    numbers = sorted(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
    files = (read_open_file(pid, number) for number in numbers[:limit])
    return tuple(file for file in files if file is not None)
