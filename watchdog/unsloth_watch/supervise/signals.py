"""What a signal to the supervisor means for the command: forwarded as it is, and the second and third Ctrl-C mean more."""

from __future__ import annotations

import os
import signal

ENDING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})
"""Signals by which somebody asks for the end: nothing is relaunched after them."""
TO_GROUP = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP})
"""Signals that a terminal sends to a whole process group, and so do we."""


def read_signals(fd: int) -> list[signal.Signals]:
    """Return the signals that have come, oldest first; never blocks."""
    found: list[signal.Signals] = []
    while True:
        try:
            data = os.read(fd, 256)
        except BlockingIOError:
            return found
        if not data:
            return found
        # Tasks wake the loop through the same pipe, with a zero.
        found += [signal.Signals(number) for number in data if number]


def forward(number: signal.Signals, pid: int) -> None:
    """Send a signal on to the command, or to its group where a terminal would.

    The command is the guardian's child and not reaped before we hear of its end, and it leads its group: its number cannot
    mean anybody else meanwhile.
    """
    try:
        if number in TO_GROUP:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
    except (ProcessLookupError, PermissionError):  # ended in this moment, or it has changed its user
        pass


def suspend_self() -> None:
    """Stop this process as Ctrl-Z would have, until somebody continues it."""
    before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    try:
        os.kill(os.getpid(), signal.SIGTSTP)
    finally:
        signal.signal(signal.SIGTSTP, before)


def end_like(number: int) -> None:
    """End this process by the signal that ended the command, so that our caller sees the same; returns where that is impossible.

    An init cannot kill itself: as PID 1 the caller gets 128+n as an exit status instead.
    """
    if os.getpid() == 1:
        return
    import resource  # noqa: PLC0415 - only here

    try:
        # The command has left its own core file where one was due; ours would only hide it.
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        signal.signal(number, signal.SIG_DFL)
    except (OSError, ValueError):  # SIGKILL and SIGSTOP keep their own ways
        pass
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)
