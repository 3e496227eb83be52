"""Soft limits of a process that may stop its program or make its calls fail."""

from __future__ import annotations

from unsloth_watch.capture.text import decode
from unsloth_watch.capture.waits import read_file

LIMITS = frozenset({"Max cpu time", "Max file size", "Max processes", "Max open files", "Max locked memory", "Max address space"})
"""Limits that stop a program or make its calls fail."""


def parse_limits(raw: bytes) -> dict[str, str]:
    """Return the soft limits of a ``limits`` file that may stop a program and are not unlimited: ``Max open files`` → ``1024``."""
    found = {}
    for line in decode(raw).splitlines():
        name, value = line[:26].strip(), line[26:].split()[:1]
        if name in LIMITS and value and value[0].isdecimal():
            found[name] = value[0]
    return found


def read_limits(pid: int) -> dict[str, str]:
    """Return the limits of a process; none where they cannot be read."""
    try:
        return parse_limits(read_file(f"/proc/{pid}/limits"))
    except OSError:
        return {}
