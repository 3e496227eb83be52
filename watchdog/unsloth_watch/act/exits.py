"""How processes end: wait statuses, and reaping when the guardian is gone.

On the way to the child's exec, so it imports nothing that costs.
"""

from __future__ import annotations

import os

from unsloth_watch.act.guardian import children_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

GUARDIANS: set[int] = set()
"""PIDs of living guardians: their exit belongs to their ``Guardian``, not to ``reap_orphans``."""


class Exited:
    """The end of a process.

    Attributes:
        pid: Its PID.
        status: Wait status as from ``os.waitpid``; see ``decode_status``.
    """

    __slots__ = ("pid", "status")

    def __init__(self, pid: int, status: int) -> None:
        self.pid = pid
        self.status = status

    def __repr__(self) -> str:
        return f"Exited(pid={self.pid}, status={self.status})"


def decode_status(status: int) -> tuple[int, int | None]:
    """Say a wait status as a shell does.

    Args:
        status: As from ``os.waitpid``.

    Returns:
        Exit code, 128+n for signal n, and the signal or None.
    """
    if os.WIFSIGNALED(status):
        signum = os.WTERMSIG(status)
        return 128 + signum, signum
    return os.WEXITSTATUS(status), None


def reap_orphans(leave: Collection[int] = ()) -> list[Exited]:
    """Reap ended children that nobody else waits for: what a dead guardian left to us, or, as PID 1, everybody's orphans.

    ``waitpid(-1)`` would steal a ``subprocess.Popen`` child, whose ``wait()`` then answers 0 whatever it exited with.

    Args:
        leave: PIDs that someone else will wait for. Living guardians need not be named.

    Returns:
        Those reaped. Never blocks.
    """
    try:
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return []
    except ChildProcessError:
        return []
    # Peeking shows the same first zombie again and again, and that one may not be ours: go through all children.
    found = []
    for pid in children_of(os.getpid()):
        if pid in leave or pid in GUARDIANS:
            continue
        try:
            reaped, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            continue
        if reaped:
            found.append(Exited(pid, status))
    return found
