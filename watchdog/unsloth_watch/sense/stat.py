"""``/proc/PID/stat``: the line that says who a process is, and how /proc is read cheaply."""

from __future__ import annotations

import os
import resource


class Stat:
    """The fields of one line of ``/proc/PID/stat``; the line is cut at its *last* parenthesis, as a name may hold any byte.

    Attributes:
        pid: Process or thread id.
        comm: Short name, undecodable bytes replaced.
        state: State letter.
        ppid: Parent's PID.
        start_ticks: Start time, clock ticks since boot.
        fields: The raw fields from the state on (number 3 of proc(5) is index 0).
    """

    __slots__ = ("comm", "fields", "pid", "ppid", "start_ticks", "state")

    def __init__(self, line: bytes) -> None:
        end = line.rindex(b")")
        start = line.index(b"(")
        self.pid = int(line[:start])
        self.comm = line[start + 1 : end].decode("utf-8", "replace")
        self.fields = line[end + 2 :].split()
        self.state = self.fields[0].decode("ascii", "replace")
        self.ppid = int(self.fields[1])
        self.start_ticks = int(self.fields[19])


def read_stat(pid: int) -> Stat | None:
    """Return the stat line of a process, or None where there is no such process for this user (``hidepid`` refuses others').

    Raises:
        OSError: /proc itself cannot be read.
    """
    try:
        return Stat(read_once(f"/proc/{pid}/stat"))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def read_once(path: str, size: int = 4096) -> bytes:
    """Return the first ``size`` bytes of a /proc file with three system calls (``open()`` makes seven)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, size)
    finally:
        os.close(descriptor)


def descriptor_share(part: float) -> int:
    """Return how many descriptors a sense may keep open: a part of the soft limit, at most 4096, so that no other starves."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 4096 if limit == resource.RLIM_INFINITY else int(min(4096.0, limit * part))
