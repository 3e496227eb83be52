"""What the kernel logged about the job: out-of-memory kills, hung tasks, GPU faults (Xid), file systems that do not answer."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection

from unsloth_watch.capture.command import run_command
from unsloth_watch.capture.deadline import DeadlineError
from unsloth_watch.capture.text import decode

MAX_LINES = 40
"""Lines kept, the newest."""
_MAX_RECORDS = 200_000
_SIGNS = re.compile(
    r"out of memory|oom[-_ ]kill|killed process|NVRM|\bXid\b|blocked for more than|hung_task|soft lockup|I/O error"
    r"|not responding|server \S+ (?:not|OK)|mce:|hardware error|page allocation failure",
    re.IGNORECASE,
)
_PRIVATE = re.compile(r"Serial Number")
# NVIDIA's driver tells a card's serial number with every Xid, and a report is made to be published.
_NAMED = re.compile(r"(?:\[|:|\b(?:pid|process|task)[ =:]*)(\d+)\b", re.IGNORECASE)


def read_kernel_log(pids: Collection[int]) -> tuple[tuple[str, ...], str | None]:
    """Return the lines that concern the job, newest last, and why they are missing, if they are.

    Args:
        pids: Processes and threads of the job; a line that names one in the kernel's ways (``[12]``, ``pid 12``) is kept.
    """
    try:
        lines = _read_kmsg()
    except FileNotFoundError:
        return _ask_dmesg(pids)
    except OSError as error:
        return (), (
            f"kernel log: {error.strerror}; run as root or with CAP_SYSLOG, or set kernel.dmesg_restrict=0,"
            " to see out-of-memory kills and GPU faults"
        )
    return select_lines(lines, pids), None


def select_lines(lines: Collection[str], pids: Collection[int]) -> tuple[str, ...]:
    """Return the last lines that tell about trouble or name one of the PIDs."""
    wanted = {str(pid) for pid in pids}
    told = (line for line in lines if not _PRIVATE.search(line))
    return tuple(line for line in told if _SIGNS.search(line) or not wanted.isdisjoint(_NAMED.findall(line)))[-MAX_LINES:]


def parse_record(record: bytes) -> str | None:
    """Return ``[seconds since boot] message`` from a record of ``/dev/kmsg``: ``level,number,microseconds,flags;message``."""
    head, found, message = record.partition(b";")
    fields = head.split(b",")
    if not found or len(fields) < 3 or not fields[2].isdigit():
        return None
    text, _, _ = message.partition(b"\n")
    return f"[{int(fields[2]) / 1e6:.6f}] {decode(text)}"


def _read_kmsg() -> list[str]:
    """Return the kernel's ring buffer, without waiting for news.

    Raises:
        OSError: It may not be read.
    """
    lines = []
    descriptor = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        for _ in range(_MAX_RECORDS):
            try:
                line = parse_record(os.read(descriptor, 8192))
            except BlockingIOError:
                break
            except BrokenPipeError:  # the ring buffer overtook us: the next read gives the oldest record that is left
                continue
            if line is not None:
                lines.append(line)
    finally:
        os.close(descriptor)
    return lines


def _ask_dmesg(pids: Collection[int]) -> tuple[tuple[str, ...], str | None]:
    """Ask dmesg, which needs no ``/dev/kmsg``: containers hide that file more often than they refuse the system call."""
    binary = shutil.which("dmesg")
    reason = "kernel log: there is no /dev/kmsg in this container and dmesg is refused; look at the host's `dmesg`"
    if binary is None:
        return (), reason
    try:
        outcome = run_command([binary], 1.0)
    except (OSError, DeadlineError):
        return (), reason
    if outcome.rc != 0:
        return (), reason
    return select_lines(decode(outcome.stdout).splitlines(), pids), None
