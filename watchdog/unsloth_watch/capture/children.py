"""Children of ours that belong to captures and not to the job, by their PIDs.

Apart from what starts them, as the loop asks at every round, from the first on, and a command that ends at once needs no capture.
"""

from __future__ import annotations

from _thread import allocate_lock

_lock = allocate_lock()
_own_pids: set[int] = set()
_spawning = 0


def own_pids() -> frozenset[int]:
    """Return the PIDs of children that belong to captures, not to the job, and that are reaped by them.

    The supervisor is a subreaper. It looks for an ended child without reaping it (``waitid`` with ``WNOWAIT``), and only **then**
    asks `is_spawning` and, if that says no, this function, in this order: a PID that is not here is then not ours. Never blocks.
    """
    with _lock:
        return frozenset(_own_pids)


def is_spawning() -> bool:
    """Return whether a child is being started whose PID is not known yet: leave unknown ended children until the next tick."""
    with _lock:
        return _spawning > 0


def announce_child() -> None:
    """Say that a child is about to be started; ``register_child`` follows, whatever comes of it."""
    global _spawning  # noqa: PLW0603 - one count for the process, as its children are
    with _lock:
        _spawning += 1


def register_child(pid: int | None) -> None:
    """Say which PID the announced child has.

    Args:
        pid: The PID; None where it could not be started.
    """
    global _spawning  # noqa: PLW0603 - as above
    with _lock:
        _spawning -= 1
        if pid is not None:
            _own_pids.add(pid)


def forget_child(pid: int) -> None:
    """Say that a child was reaped."""
    with _lock:
        _own_pids.discard(pid)
