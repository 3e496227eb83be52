"""Proof by quiescence: nothing inside the job can run again without a message that nobody can send.

Starting at the command's main thread, everybody is collected who could wake it, then everybody who could wake those. If none of
them runs, none wakes by the clock (apart from known loops that only look and go back), and none waits for anything outside, then
the main thread will never go on. Two surveys some seconds apart must show the very same waits, without a single wake-up between.
Whatever cannot be read, or is not understood, is a doubt, and a doubt cancels the proof, never the stall timeout.

What no survey can see, and a proof therefore takes for absent: an alarm(2) without a handler that will kill a child, and a
descriptor that lies unread in a socket between two processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from unsloth_watch.judge.blur import settle
from unsloth_watch.model.evidence import Evidence, ThreadEvidence
from unsloth_watch.waits.ends import find_interpreter_holder
from unsloth_watch.waits.loops import Loop
from unsloth_watch.waits.scene import Doubt, Key, Scene, has_ended, is_harmless, is_helper
from unsloth_watch.waits.trace import Step, Trace, trace
from unsloth_watch.waits.wait import Class, find_loop_depth

LEAST_APART_S = 1.5
"""Seconds between the first and the last survey of a proof: two ticks, of which the first survey may begin some tenths late."""
LOOP_APART_S = 3.5
"""The same where it rests on a known loop. It must be seen to go back, too: torch's does every 5 s, datasets' every 50 ms."""
STOPPED_APART_S = 4.5
"""The same where it rests on a process that was stopped by a signal: whoever stopped it may be about to continue it."""
MARGIN_SURVEYS = 3
"""Surveys of a proof that needs such a margin."""
LOOP_CORE = 0.05
"""Share of a core above which a loop does more than look (torch's and datasets' loops: below 1 %)."""
LEAST_RETURNS = 2
"""Wake-ups between the surveys after which a clocked thread of another process counts as one that goes back."""


MOST_STEPS = 60
"""Steps of a proof that are told one by one: a job of 64 ranks has thousands of waiting threads."""


class Proof(msgspec.Struct, frozen=True):
    """Why nothing can go on.

    Attributes:
        steps: The argument, one phrase each, from the main thread on.
        threads: How many threads it covers.
    """

    steps: tuple[str, ...]
    threads: int


def prove(surveys: Sequence[Evidence], *, is_gpu_idle: bool) -> Proof | Doubt:
    """Prove that a job can never go on, or say what stands against it.

    Args:
        surveys: Surveys without any progress between them, oldest first; at least one.
        is_gpu_idle: Whether all devices of the job are known to have done nothing since the first survey, or it has none.
    """
    found = _weigh(surveys, is_gpu_idle=is_gpu_idle)
    if isinstance(found, Doubt) and not found.is_open and len(surveys) > 1:
        settled = settle(surveys[-2], surveys[-1])
        again = None if settled is None else _weigh((*surveys[:-1], settled), is_gpu_idle=is_gpu_idle)
        if isinstance(again, Proof) or (again is not None and again.is_open):
            return msgspec.structs.replace(found, is_blurred=True)
    return found


def _weigh(surveys: Sequence[Evidence], *, is_gpu_idle: bool) -> Proof | Doubt:
    now = Scene(surveys[-1], is_gpu_idle, is_strict=True)
    argument = trace(now)
    if isinstance(argument, Doubt):
        return argument
    if argument.asked and surveys[-1].unseen is None:
        return Doubt(f"who outside the job holds {argument.asked[0]} could not be found out")
    before = Scene(surveys[0], is_gpu_idle, is_strict=True)
    seconds = surveys[-1].at - surveys[0].at
    if len(surveys) > 1:
        doubt = _find_change(before, now, argument, seconds)
        if doubt is not None:
            return doubt
    least_s = LEAST_APART_S
    if argument.loops:
        least_s = LOOP_APART_S
    elif argument.is_stopped:
        least_s = STOPPED_APART_S
    least = MARGIN_SURVEYS if least_s > LEAST_APART_S else 2
    if len(surveys) < least or seconds < least_s:
        return Doubt(f"nobody can go on; to be confirmed over {least_s:g} s", is_open=True)
    return _write(argument, now, seconds)


def _write(argument: Trace, now: Scene, seconds: float) -> Proof:
    pids = {step.key[0] for step in argument.steps}
    threads = len(argument.steps)
    lines = list(_tell_steps(argument, now))
    if len(lines) > MOST_STEPS:
        lines = [*lines[:MOST_STEPS], f"{len(lines) - MOST_STEPS} more threads wait like these (/proc/PID/task/TID/syscall)"]
    for key in argument.clocked:
        lines.append(
            f"PID {key[0]} thread {now.threads[key].name} wakes by the clock and went back to the same place each time"
            f" (/proc/{key[0]}/task/{key[1]}/status)"
        )
    has_askers = any(now.waits[step.key].kind is Class.INTERPRETER for step in argument.steps)
    held = "unchanged, or in loops that found nothing," if argument.loops or has_askers else "unchanged"
    lines.append(
        f"{threads} thread{'s' if threads > 1 else ''} of {len(pids)} process{'es' if len(pids) > 1 else ''} stood {held} for"
        f" {seconds:.1f} s, and nobody else can wake them (voluntary_ctxt_switches of /proc/PID/task/TID/status)"
    )
    return Proof(tuple(lines), threads)


def _tell_steps(argument: Trace, now: Scene) -> Iterator[str]:
    """Yield a line for each step; the idle threads of native pools, dozens in each process, are told together."""
    silent: dict[tuple[int, str], int] = {}
    for step in argument.steps:
        if now.threads[step.key].frames or step.is_monitor or now.threads[step.key].is_main:
            yield f"{step.why} ({_source(step, now)})"
        else:
            place = (step.key[0], now.waits[step.key].why)
            silent[place] = silent.get(place, 0) + 1
    for (pid, why), count in silent.items():
        yield f"PID {pid}, {count} thread{'s' if count > 1 else ''} without a Python stack: {why} (/proc/{pid}/task/*/syscall)"


def _source(step: Step, now: Scene) -> str:
    """Return the file that a step was read from."""
    thread = now.threads[step.key]
    own = next((frame for frame in thread.frames if not frame.is_native and not frame.file.endswith("/threading.py")), None)
    return own.file if step.is_pulse and own is not None else f"/proc/{step.key[0]}/task/{step.key[1]}/syscall"


def _find_change(before: Scene, now: Scene, argument: Trace, seconds: float) -> Doubt | None:
    """Return what has moved between the surveys; None where nothing that the argument rests on has."""
    if {process.ref for process in before.survey.processes} != {process.ref for process in now.survey.processes}:
        return Doubt("processes came or went between the surveys")
    pulses = {step.key for step in argument.steps if step.is_pulse}
    for key, later in now.threads.items():
        process = now.processes[key[0]]
        if is_harmless(key, now) or is_helper(process) or has_ended(process):
            continue
        earlier = before.threads.get(key)
        if earlier is None:
            doubt: str | None = "is new"
        elif key in argument.loops:
            doubt = _doubt_loop(earlier, later, seconds, 0 if now.waits[key].loop is Loop.WORKER else 1)
        elif key in argument.clocked or key in pulses:
            doubt = _doubt_clocked(earlier, later, seconds)
        elif now.waits[key].kind is Class.INTERPRETER:
            doubt = _doubt_asker(key, before, now, seconds)
        else:
            doubt = None if _is_unchanged(key, before, now) else "moved between the surveys"
        if doubt is not None:
            return Doubt(f"PID {key[0]} thread {later.name} {doubt}", is_open=doubt == _TOO_SOON)
    gone = next((key for key in before.threads if key not in now.threads), None)
    return None if gone is None else Doubt(f"PID {gone[0]} thread {before.threads[gone].name} has ended")


_TOO_SOON = "has not been seen to go back yet"


def _is_unchanged(key: Key, before: Scene, now: Scene) -> bool:
    """Whether a thread has not run at all since the earlier survey."""
    earlier, later = before.threads[key], now.threads[key]
    if before.waits[key].kind is not now.waits[key].kind or before.waits[key].targets != now.waits[key].targets:
        return False
    if earlier.call != later.call or earlier.syscall_args != later.syscall_args:
        return False
    return earlier.vctx is not None and earlier.vctx == later.vctx and earlier.cpu_s == later.cpu_s


def _doubt_loop(earlier: ThreadEvidence, later: ThreadEvidence, seconds: float, least: int) -> str | None:
    """Return what speaks against a thread's being in the same known loop, for the same purpose, all the time."""
    places = [
        tuple((frame.function, frame.file, frame.line) for frame in thread.frames[depth + 1 :])
        for thread in (earlier, later)
        if (depth := find_loop_depth(thread)) is not None
    ]
    if len(places) != 2 or places[0] != places[1]:
        return "is not in the same loop as before"
    return _doubt_returns(earlier, later, seconds, least)


def _doubt_asker(key: Key, before: Scene, now: Scene, seconds: float) -> str | None:
    """Return what speaks against a thread's having asked for the interpreter lock in vain all the time.

    Whoever takes the lock is its last holder from then on: while that is the same thread, which has not run, nobody else had it.
    """
    if before.waits[key].kind is not Class.INTERPRETER:
        return "did not ask for the interpreter lock before"
    if find_interpreter_holder(key[0], before) != find_interpreter_holder(key[0], now):
        return "asks for the interpreter lock, which has changed hands"
    return _doubt_clocked(before.threads[key], now.threads[key], seconds)


def _doubt_clocked(earlier: ThreadEvidence, later: ThreadEvidence, seconds: float) -> str | None:
    if [str(frame) for frame in earlier.frames] != [str(frame) for frame in later.frames]:
        return "is at another place than before"
    return _doubt_returns(earlier, later, seconds, LEAST_RETURNS)


def _doubt_returns(earlier: ThreadEvidence, later: ThreadEvidence, seconds: float, least: int) -> str | None:
    if earlier.vctx is None or later.vctx is None or earlier.cpu_s is None or later.cpu_s is None:
        return "could not be read"
    if later.cpu_s - earlier.cpu_s > LOOP_CORE * seconds + 0.02:
        return "computes"
    return None if later.vctx - earlier.vctx >= least else _TOO_SOON
