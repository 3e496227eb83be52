"""Proof by quiescence: nothing inside the job can run again without a message that nobody can send.

Starting at the command's main thread, everybody is collected who could wake it, then everybody who could wake those. If none of
them runs, none wakes by the clock (apart from known loops that only look and go back), and none waits for anything outside, then
the main thread will never go on. Two surveys some seconds apart must show the very same waits, without a single wake-up between.
Whatever cannot be read, or is not understood, is a doubt, and a doubt cancels the proof, never the stall timeout.
"""

from __future__ import annotations

import msgspec

from unsloth_watch.model.evidence import Evidence, ProcessEvidence, ThreadEvidence
from unsloth_watch.waits.scene import Doubt, Key, Scene, find_wakers, is_harmless
from unsloth_watch.waits.wait import Wait

LEAST_APART_S = 1.9
"""Seconds between two surveys of a proof."""
_SIGALRM, _SIGVTALRM, _SIGPROF, _SIGCHLD, _SIGIO = 14, 26, 27, 17, 29
_WAKING = sum(1 << number - 1 for number in (_SIGALRM, _SIGVTALRM, _SIGPROF, _SIGIO))
"""Signals that the kernel itself sends by a clock or for I/O; a handler for one may wake a main thread."""


class Proof(msgspec.Struct, frozen=True):
    """Why nothing can go on.

    Attributes:
        steps: The argument, one phrase each, from the main thread on.
        threads: How many threads it covers.
    """

    steps: tuple[str, ...]
    threads: int


def prove(first: Evidence, second: Evidence, *, is_gpu_idle: bool) -> Proof | Doubt:
    """Prove that a job can never go on, or say what stands against it.

    Args:
        first: The earlier survey.
        second: The later one, at least ``LEAST_APART_S`` after it.
        is_gpu_idle: Whether all devices of the job are known to have done nothing since the first survey, or it has none.
    """
    if second.at - first.at < LEAST_APART_S:
        return Doubt("the surveys are too close together")
    before, now = Scene(first, is_gpu_idle), Scene(second, is_gpu_idle)
    root = now.processes.get(second.root.pid) if second.root is not None else None
    if root is None or second.root != first.root or not root.threads:
        return Doubt("the command itself could not be read")
    start = (root.ref.pid, root.threads[0].tid)
    steps: list[str] = []
    seen: dict[Key, None] = {start: None}
    queue = [start]
    while queue:
        key = queue.pop(0)
        found = _wakers(key, before, now)
        if isinstance(found, Doubt):
            return found
        step, wakers = found
        steps.append(step)
        for waker in wakers:
            if waker not in seen:
                seen[waker] = None
                queue.append(waker)
    processes = {pid for pid, _ in seen}
    for pid in sorted(processes):
        doubt = _doubt_process(now.processes[pid])
        if doubt is not None:
            return doubt
    steps.append(
        f"{len(seen)} thread{'s' if len(seen) > 1 else ''} of {len(processes)} process{'es' if len(processes) > 1 else ''} "
        f"stood unchanged for {second.at - first.at:.1f} s, and nobody else can wake them"
    )
    return Proof(tuple(steps), len(seen))


def _doubt_process(process: ProcessEvidence) -> Doubt | None:
    """Return what about a whole process spoils a proof."""
    pid = process.ref.pid
    if process.missing or process.descriptors is None:
        return Doubt(f"PID {pid} could not be read completely: {'; '.join(process.missing) or 'its descriptors'}")
    if process.signals_caught is None or process.signals_caught & _WAKING:
        return Doubt(f"PID {pid} handles a signal that a timer may send")
    if process.has_timers:
        return Doubt(f"PID {pid} has timers armed")
    kinds = {descriptor.target for descriptor in process.descriptors}
    for kind in ("io_uring", "[aio]"):
        if any(kind in target for target in kinds):
            return Doubt(f"PID {pid} uses {kind}, by which the kernel itself may wake it")
    return None


def _wakers(key: Key, before: Scene, now: Scene) -> tuple[str, list[Key]] | Doubt:
    """Return how a thread waits, as a step of the proof, and who could wake it; or why that is not known."""
    thread = now.threads[key]
    if is_harmless(key, now):
        return f"PID {key[0]} thread {thread.name} is a known monitor and wakes nobody", []
    earlier = before.threads.get(key)
    if earlier is None or not _is_unchanged(earlier, thread, before.waits[key], now.waits[key]):
        return Doubt(f"PID {key[0]} thread {thread.name} moved between the surveys")
    return find_wakers(key, now)


def _is_unchanged(earlier: ThreadEvidence, later: ThreadEvidence, before: Wait, now: Wait) -> bool:
    """Whether a thread has not run at all since the earlier survey; a known loop may have woken and gone back."""
    if before.kind is not now.kind or before.targets != now.targets or earlier.call != later.call:
        return False
    if now.loop is not None:
        return _stack(earlier) == _stack(later)
    return earlier.vctx is not None and earlier.vctx == later.vctx and earlier.cpu_s == later.cpu_s


def _stack(thread: ThreadEvidence) -> tuple[tuple[str, str], ...]:
    return tuple((frame.function, frame.file) for frame in thread.frames[-8:])
