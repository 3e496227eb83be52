"""What a polling thread opens for a moment only: the lock file that it tries, the log that it reads again, the port that it asks.

Such a thread sleeps for all but microseconds, so that no single look finds its file open. Here its wake-up is awaited, and then the
lowest free number of its descriptor table is asked for again and again, for that is the number the next ``open`` gets: 3 µs a
question, while an open, a ``flock`` and a close take 30 µs and more. Nothing of the process is touched. What it only asks about
(``stat``, a refused ``O_EXCL``) opens nothing and stays unseen.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import msgspec

from unsloth_watch.capture.deadline import Deadline
from unsloth_watch.capture.memory import read_pause
from unsloth_watch.capture.pool import spread
from unsloth_watch.capture.syscalls import name_syscall
from unsloth_watch.capture.text import decode
from unsloth_watch.capture.waits import read_task
from unsloth_watch.model.evidence import ProcessEvidence
from unsloth_watch.waits.wait import is_sleep

WATCH_S = 1.2
"""Longest watch of a process: two rounds of a poll each half second. A poll each 2 s is seen in three of five captures."""
BRIEF_S = 0.6
"""Longest watch for a person who waits for an answer."""
ROUNDS = 2
"""Wake-ups that are followed after the first in which something was seen."""
MAX_WAKES = 24
"""Wake-ups that are followed at most. Of a lock that is tried each 50 ms one try at least was seen in 20 of 20 watches on a machine
with a free core, and ten wake-ups gave 10 of 20 on one without: who wakes takes the watcher's core."""
MAX_PROCESSES = 4
"""Processes watched: the watch is busy while they are awake, and the first poll in the tree is the one that matters."""
_AWAKE_S = 0.02
# How long a wake-up is followed: an HTTP request over loopback is done in some ms.
_EARLY_S = 0.002
_TIMER_ABSTIME = 1


def find_glimpses(
    processes: Sequence[ProcessEvidence], deadline: Deadline, seconds: float = WATCH_S
) -> tuple[ProcessEvidence, ...]:
    """Return the processes with what those of them that sleep in their main thread, or in a loop that sleeps, opened meanwhile.

    Args:
        processes: The job's processes.
        deadline: Ends it all.
        seconds: How long to watch each at most.
    """
    sleepers = [process for process in processes if _is_polling(process)][:MAX_PROCESSES]
    patience = Deadline(deadline.left(2 * seconds))
    answers = spread(lambda process: watch_descriptors(process.ref.pid, min(seconds, patience.left())), sleepers, patience)
    seen = {process.ref: answer for process, answer in zip(sleepers, answers, strict=True) if isinstance(answer, tuple)}
    return tuple(
        msgspec.structs.replace(process, glimpses=seen[process.ref]) if seen.get(process.ref) else process for process in processes
    )


def _is_polling(process: ProcessEvidence) -> bool:
    thread = process.main_thread
    if thread is None or not thread.frames:
        return False
    is_asleep = thread.state == "S" and is_sleep(thread.call, thread.syscall_args)
    return is_asleep or any("sleep(" in call for loop in thread.loops for call in loop.calls)


def watch_descriptors(pid: int, seconds: float) -> tuple[str, ...]:
    """Return what a process opened while it was watched, in the order of its first sight: paths, and ``socket:[n]`` as it stands.

    Args:
        pid: Process whose main thread sleeps now and then.
        seconds: How long to watch at most.
    """
    patience, found, rounds = Deadline(seconds), dict[str, None](), 0
    free = _find_free(pid)
    for _ in range(MAX_WAKES):
        if free is None or rounds >= ROUNDS:
            break
        nap = _read_nap(pid)
        if nap is None or nap.left_s > patience.left() or patience.is_over:
            break
        rounds += bool(found)
        if nap.is_clocked:
            time.sleep(max(0.0, nap.left_s - _EARLY_S))
        # When a relative sleep ends is not known: one whole round of it has a wake-up.
        awake = Deadline(min(_AWAKE_S if nap.is_clocked else 2 * nap.left_s + _AWAKE_S, patience.left()))
        while not awake.is_over:
            try:
                found[decode(os.readlink(f"/proc/{pid}/fd/{free}".encode()))] = None
            except FileNotFoundError:
                continue
            except OSError:
                return tuple(found)
    return tuple(found)


def _find_free(pid: int) -> int | None:
    """Return the lowest number that no descriptor has; None where the descriptors may not be listed."""
    try:
        taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    except OSError:
        return None
    return next(number for number in range(len(taken) + 1) if number not in taken)


class _Nap(msgspec.Struct, frozen=True):
    """How long a thread will still sleep.

    Attributes:
        left_s: Seconds, 0 while it is awake; half of a relative sleep, of which it is not known how much is over.
        is_clocked: Whether that is known. Python's ``time.sleep`` is a relative one before 3.11.
    """

    left_s: float = 0.0
    is_clocked: bool = True


def _read_nap(pid: int) -> _Nap | None:
    """Return how long the main thread will still sleep; None where that cannot be read."""
    task = read_task(pid, pid)
    if task is None:
        return None
    call = name_syscall(task.syscall)
    if call is None or not is_sleep(call, task.args) or len(task.args) < 4:
        return _Nap()
    seconds = read_pause(pid, call, task.args)
    if seconds is None:
        return None
    if call == "clock_nanosleep" and task.args[1] & _TIMER_ABSTIME:
        return _Nap(max(0.0, seconds - time.clock_gettime(task.args[0]))) if task.args[0] in (0, 1, 7) else None
    return _Nap(seconds / 2, is_clocked=False)
