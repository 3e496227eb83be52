"""Effort: who computes, and what else is done that is no progress. Effort buys patience, never a clean bill."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

from unsloth_watch.judge.rules import (
    CHILD_CPU_S,
    COMPUTING_CORE,
    COMPUTING_TREE,
    FAULTS_PER_S,
    POLLING_BYTES,
    POLLING_CALLS_PER_S,
    POLLING_CORE,
    VOLUME_BYTES_PER_S,
    Rules,
)
from unsloth_watch.model.process import ProcessRef, ProcessSample


class Kind(int, enum.Enum):
    """How much effort a sample shows; more is more."""

    NONE = 0
    """Nobody computes."""
    COMPUTING = 1
    """CPU or a device is busy, or bytes pass in volume over known ground."""
    CHURNING = 2
    """Pages are faulted in, or children end after real work: rarely a hang."""


class Load(msgspec.Struct, frozen=True):
    """Totals of one process at one tick."""

    cpu_s: float
    reaped_cpu_s: float
    reaped_minflt: int
    faults: int
    volume: int
    calls: int
    vctx: int
    is_runnable: bool


class Tick(msgspec.Struct, frozen=True):
    """Loads of all processes at one moment."""

    at: float
    loads: Mapping[ProcessRef, Load]


class Effort(msgspec.Struct, frozen=True):
    """What the window shows, per second where a rate.

    Attributes:
        kind: The strongest kind.
        core: Share of one core that the whole tree used, its ended children included.
        busiest: Largest share of one core that a single process used.
        faults: Page faults a second, forking processes left out.
        volume: Bytes a second through read and write calls.
        calls: Read calls a second.
        wakeups: Voluntary context switches a second of the main threads.
        seconds: Length of the window that the rates are over.
        detail: The reason for ``kind``, one phrase.
    """

    kind: Kind
    core: float
    busiest: float
    faults: float
    volume: float
    calls: float
    wakeups: float
    seconds: float
    detail: str


def tick_of(processes: tuple[ProcessSample, ...], at: float) -> Tick:
    """Reduce processes to what the rates need."""
    return Tick(
        at,
        {
            process.ref: Load(
                process.cpu_s,
                process.reaped_cpu_s,
                process.reaped_minflt,
                process.minflt + process.majflt,
                (process.rchar or 0) + (process.wchar or 0),
                process.syscr or 0,
                process.vctx or 0,
                process.state == "R" or bool(process.thread_states and process.thread_states.get("R")),
            )
            for process in processes
            if process.state not in "ZX"
        },
    )


def measure_effort(history: tuple[Tick, ...], now: Tick, rules: Rules) -> Effort:
    """Return the effort over the window that ends with ``now``.

    Args:
        history: Earlier ticks, oldest first; at least one.
        now: The newest tick.
        rules: For the length of the window.
    """
    # The newest tick that is a whole window old, else the oldest there is.
    start = next((tick for tick in reversed(history) if now.at - tick.at >= rules.effort_s), history[0])
    seconds = max(now.at - start.at, 1e-9)
    core = busiest = faults = volume = calls = wakeups = 0.0
    is_computing = False
    for ref, load in now.loads.items():
        before = start.loads.get(ref)
        own = load.cpu_s - before.cpu_s if before else load.cpu_s
        reaped = load.reaped_cpu_s - before.reaped_cpu_s if before else 0.0
        core += own + max(0.0, reaped)
        busiest = max(busiest, own)
        is_computing = is_computing or own / seconds >= (POLLING_CORE if _is_polling(before, load, seconds) else COMPUTING_CORE)
        if before is None:
            continue
        # A fork makes its parent fault on every page that it touches again: no sign of work.
        if load.reaped_minflt == before.reaped_minflt:
            faults += load.faults - before.faults
        volume += max(0, load.volume - before.volume)
        calls += max(0, load.calls - before.calls)
        wakeups += max(0, load.vctx - before.vctx)
    core, busiest, faults, volume, calls, wakeups = (value / seconds for value in (core, busiest, faults, volume, calls, wakeups))
    is_computing = is_computing or core >= COMPUTING_TREE
    kind, detail = _classify(
        history, now, rules, is_computing=is_computing, core=core, busiest=busiest, faults=faults, volume=volume
    )
    return Effort(kind, core, busiest, faults, volume, calls, wakeups, seconds, detail)


def _is_polling(before: Load | None, load: Load, seconds: float) -> bool:
    """Whether a process reads a little very often and sleeps as often: it looks whether something has come."""
    if before is None:
        return False
    calls, wakeups = (load.calls - before.calls) / seconds, (load.vctx - before.vctx) / seconds
    is_frequent = calls >= POLLING_CALLS_PER_S and wakeups >= POLLING_CALLS_PER_S
    return is_frequent and load.volume - before.volume < POLLING_BYTES * (load.calls - before.calls)


def _classify(
    history: tuple[Tick, ...],
    now: Tick,
    rules: Rules,
    *,
    is_computing: bool,
    core: float,
    busiest: float,
    faults: float,
    volume: float,
) -> tuple[Kind, str]:
    ended = history[-1].loads.keys() - now.loads.keys()
    worked = max((history[-1].loads[ref].cpu_s for ref in ended), default=0.0)
    if worked >= CHILD_CPU_S:
        return Kind.CHURNING, f"a process ended after {worked:.1f} s of CPU"
    if faults >= FAULTS_PER_S:
        return Kind.CHURNING, f"{faults:.0f} page faults a second"
    if is_computing:
        return Kind.COMPUTING, f"{core:.0%} of a core"
    if volume >= VOLUME_BYTES_PER_S:
        return Kind.COMPUTING, f"{volume / 1048576:.0f} MiB/s through read and write calls"
    # On an overloaded machine a job gets little CPU although it asks for it all the time: runnable is computing.
    recent = [tick for tick in history if now.at - tick.at <= rules.effort_s]
    for ref, load in now.loads.items():
        if load.is_runnable and len(recent) >= 2:
            runnable = sum(1 for tick in recent if ref in tick.loads and tick.loads[ref].is_runnable)
            if runnable >= len(recent):
                return Kind.COMPUTING, f"PID {ref} is runnable all the time and gets {busiest:.0%} of a core"
    return Kind.NONE, ""
