"""Threads that take data which no kernel counts: how often each wakes, and whether it still waits there.

Asked only of threads that a survey found at such a wait, in a job that shows nothing else: 27 µs each (Linux 6.18).
"""

from __future__ import annotations

from collections.abc import Iterable

from unsloth_watch.model.receiver import Receiver, ReceiverSample
from unsloth_watch.sense.stat import read_once

_SWITCHES = b"\nvoluntary_ctxt_switches:"
_READS = b"syscr:"


def read_receivers(receivers: Iterable[Receiver]) -> tuple[ReceiverSample, ...]:
    """Return what is seen of each thread that is still there.

    Args:
        receivers: Threads of processes that are known to be the same as when they were found.
    """
    found = []
    for receiver in receivers:
        folder = f"/proc/{receiver.ref.pid}/task/{receiver.tid}"
        try:
            status = read_once(f"{folder}/status", 8192)
        except (FileNotFoundError, ProcessLookupError):
            continue
        except OSError:
            status = b""
        vctx, reads = _read_number(status, _SWITCHES), _read_number(_try_read(f"{folder}/io"), _READS)
        found.append(ReceiverSample(receiver, _is_there(_try_read(f"{folder}/syscall"), receiver.syscall), vctx, reads))
    return tuple(found)


def _is_there(line: bytes, syscall: int) -> bool | None:
    """Whether a thread is in that call; one that runs shows none, and says nothing."""
    return int(line.split(None, 1)[0]) == syscall if line[:1].isdigit() else None


def _read_number(text: bytes, name: bytes) -> int | None:
    _, is_found, rest = text.partition(name)
    return int(rest.split(None, 1)[0]) if is_found else None


def _try_read(path: str) -> bytes:
    try:
        return read_once(path, 1024)
    except OSError:  # another user's, or it has ended
        return b""
