"""A survey: what every thread of a job waits for, for a proof that nothing can wake it; pauses nobody."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from unsloth_watch.capture.bounds import mark_bounds
from unsloth_watch.capture.deadline import Deadline, DeadlineError, within
from unsloth_watch.capture.members import ask, order, read_job_locks, read_members, read_outside
from unsloth_watch.capture.outsiders import ask_outsiders
from unsloth_watch.capture.process import ProcessRead
from unsloth_watch.capture.pulses import mark_pulses
from unsloth_watch.capture.refutation import refute, wakes_by_clock
from unsloth_watch.capture.sockettimeouts import mark_timeouts
from unsloth_watch.capture.syscalls import name_syscall
from unsloth_watch.capture.waits import Task
from unsloth_watch.model.evidence import Evidence
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.waits.reduction import reduce_survey

SURVEY_S = 3.0
"""Default deadline of a survey: 10 processes take 0.15 s."""
LARGE = 64
"""Processes from which a survey first looks for somebody who spoils every proof: 64 take 0.5 s of CPU, a thousand 5 s."""


def survey(
    members: Sequence[ProcessRef],
    root: ProcessRef | None,
    *,
    at: float,
    clock: Callable[[], float],
    deadline_s: float = SURVEY_S,
    is_sealed: bool = False,
    binary: str | None = None,
) -> Evidence:
    """Return what every thread of a job waits for, for a proof that nothing can wake it; pauses nobody.

    It holds what the judge needs and nothing private: no environment, no caches, nothing about the machine. Everybody else on the
    machine is asked for the other ends only where nothing else stands against a proof.

    Of a large job in which somebody wakes by the clock, little more than that is read (`refutation`); otherwise the stacks of those
    who rest in memory are left out, which no argument asks for.

    Args:
        members: The job's processes.
        root: The command itself.
        at: Monotonic seconds of the start.
        clock: That clock.
        deadline_s: Seconds for all of it; what is not there by then is named in ``missing``, and spoils the proof.
        is_sealed: Whether we gave the job every descriptor that it got from outside, so that whoever cannot be asked holds none.
        binary: py-spy; None to look for it.
    """
    deadline = Deadline(deadline_s)
    missing: list[str] = []
    refs = order(members, root)
    is_large = len(refs) >= LARGE
    if is_large and root is not None:
        refuted = ask("who wakes by the clock", lambda: _refute(refs, root, deadline.left() / 3, binary), deadline, missing)
        if refuted is not None:
            return msgspec.structs.replace(reduce_survey(refuted), at=at, seconds=clock() - at, is_sealed=is_sealed)
    reads, processes = read_members(
        refs,
        deadline,
        missing,
        is_gentle=True,
        is_brief=True,
        further=(),
        binary=binary,
        needs_stack=_needs_stack if is_large else None,
    )
    found = Evidence(
        at=at,
        seconds=clock() - at,
        processes=processes,
        root=root,
        locks=read_job_locks(reads, (), deadline, missing) or (),
        missing=tuple(missing),
        outside=read_outside(),
        is_sealed=is_sealed,
    )
    marked = ask("source", lambda: mark_bounds(mark_pulses(processes)), deadline, missing)
    # A loop whose bounds could not be looked for must not count as one that has none.
    found = msgspec.structs.replace(found, processes=marked or processes, missing=tuple(missing))
    asked = ask("who outside holds the other ends", lambda: ask_outsiders(found, deadline), deadline, missing) or found
    asked = ask("time-outs of sockets", lambda: mark_timeouts(asked), deadline, missing) or asked
    # Without what the sockets' time-outs are, a wait that ends by the clock would count as one without an end.
    return msgspec.structs.replace(reduce_survey(asked), missing=tuple(missing), seconds=clock() - at)


def _refute(refs: Sequence[ProcessRef], root: ProcessRef, seconds: float, binary: str | None) -> Evidence | None:
    """Return a survey of those who spoil every proof; None for nobody, and where it is late: that alone says nothing of the job."""
    try:
        return within(seconds, refute, refs, root, Deadline(seconds), binary)
    except DeadlineError:
        return None


def _needs_stack(process: ProcessRead) -> bool:
    """Whether a process's stacks may matter for a proof: of who waits for memory or a child without a time-out, they do not."""
    return any(not _rests(name_syscall(task.syscall), task) for task in process.tasks)


def _rests(call: str | None, task: Task) -> bool:
    return task.state == "S" and call in ("futex", "wait4") and not wakes_by_clock(call, task.args)
