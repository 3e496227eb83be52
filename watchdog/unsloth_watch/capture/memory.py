"""Small reads of another process's memory: what the pointers in a system call's arguments point to.

It needs the right to trace the process, does not pause it, and takes its mmap_lock: call it within a deadline.
"""

from __future__ import annotations

import ipaddress
import os
import struct
from collections.abc import Sequence

from unsloth_watch.capture.text import decode


def read_memory(pid: int, address: int, size: int) -> bytes | None:
    """Return up to ``size`` bytes at ``address``; None where they cannot be read."""
    try:
        descriptor = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.pread(descriptor, size, address)
    except (OSError, OverflowError, ValueError):  # an address above 2**63 is no offset
        return None
    finally:
        os.close(descriptor)


def read_string(pid: int, address: int) -> str | None:
    """Return the C string at ``address``, at most 4096 bytes; the read stops at a page border when the next page is not there."""
    for size in (4096, 4096 - address % 4096):
        raw = read_memory(pid, address, size) if address else None
        if raw is not None:
            text, end, _ = raw.partition(b"\0")
            return decode(text) if end else None
    return None


def read_timespec(pid: int, address: int) -> float | None:
    """Return the seconds of a ``struct timespec``."""
    return _read_time(pid, address, 1e9)


def _read_time(pid: int, address: int, units: float) -> float | None:
    """Return two words as seconds; of the second there are ``units`` in one."""
    raw = read_memory(pid, address, 16) if address else None
    if raw is None or len(raw) < 16:
        return None
    seconds, parts = struct.unpack("=qq", raw)
    return float(seconds + parts / units)


def read_pause(pid: int, call: str, args: Sequence[int]) -> float | None:
    """Return the seconds that a call which only waits for some time was given; None for other calls, and where it is not readable.

    Args:
        pid: Process.
        call: Name of the system call.
        args: Its raw arguments, five at least.
    """
    if call == "poll":
        return (args[2] & 0xFFFFFFFF) / 1000
    if call == "select":  # a ``struct timeval``: microseconds
        return _read_time(pid, args[4], 1e6)
    place = {"nanosleep": 0, "clock_nanosleep": 2, "ppoll": 2, "pselect6": 4}.get(call)
    return None if place is None else read_timespec(pid, args[place])


def read_poll_set(pid: int, address: int, count: int) -> tuple[int, ...]:
    """Return the descriptors of an array of ``struct pollfd``; the first 256 of them."""
    count = min(count, 256)
    raw = read_memory(pid, address, 8 * count) or b""
    return tuple(struct.unpack_from("=ihh", raw, 8 * index)[0] for index in range(len(raw) // 8))


def read_select_sets(pid: int, highest: int, addresses: tuple[int, ...]) -> tuple[int, ...]:
    """Return the descriptors in the ``fd_set`` of any of ``addresses``, those below ``highest`` and 1024."""
    found: set[int] = set()
    size = (min(max(highest, 0), 1024) + 7) // 8
    for address in addresses:
        bits = int.from_bytes(read_memory(pid, address, size) or b"", "little") if address and size else 0
        found.update(number for number in range(size * 8) if bits >> number & 1)
    return tuple(sorted(found))


def read_address(pid: int, address: int, size: int) -> str | None:
    """Return a ``struct sockaddr`` as ``host:port`` or as the path of a UNIX socket; None for other families."""
    raw = read_memory(pid, address, min(size, 128)) if address else None
    if raw is None or len(raw) < 2:
        return None
    family = int.from_bytes(raw[:2], "little")
    if family == 2 and len(raw) >= 8:
        return f"{ipaddress.ip_address(raw[4:8])}:{int.from_bytes(raw[2:4], 'big')}"
    if family == 10 and len(raw) >= 24:
        return f"[{ipaddress.ip_address(raw[8:24])}]:{int.from_bytes(raw[2:4], 'big')}"
    if family == 1:
        name = raw[2:]
        return "@" + decode(name[1:].rstrip(b"\0")) if name.startswith(b"\0") else decode(name.partition(b"\0")[0])
    return None
