"""Effort: who computes, and what else is done that is no progress. Effort buys patience, never a clean bill."""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping

import msgspec

from unsloth_watch.judge.rules import (
    CHILD_CPU_S,
    COMPUTING_CORE,
    COMPUTING_TREE,
    FAULTS_PER_S,
    LEAST_SHARE,
    MOST_CROWDING,
    POLLING_BYTES,
    POLLING_CALLS_PER_S,
    POLLING_CORE,
    SHORT_EFFORT_S,
    STARVED_SHARE,
    STREAM_BYTES_PER_S,
    STREAM_CALL_BYTES,
    VOLUME_BYTES_PER_S,
    WAKEUP_CPU_S,
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
    """Loads of all processes at one moment, and the share of a core that a thread which wanted to run got."""

    at: float
    loads: Mapping[ProcessRef, Load]
    share: float = 1.0


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
        share: By what the rates that count were scaled, because others wanted the CPU too.
        crowding: How far the machine is beyond what can be scaled for: the limits are so many times longer.
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
    share: float = 1.0
    crowding: float = 1.0


def tick_of(processes: tuple[ProcessSample, ...], at: float, before: Tick | None = None, *, cpu_share: float | None = None) -> Tick:
    """Reduce processes to what the rates need.

    Args:
        processes: As sampled.
        at: Now, effective seconds.
        before: The tick before this one, None for the first.
        cpu_share: As sampled; where it is unknown the one before stands.
    """
    earlier = before.loads if before is not None else {}
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
                _is_runnable(process, earlier.get(process.ref)),
            )
            for process in processes
            if process.state not in "ZX"
        },
        cpu_share if cpu_share is not None else before.share if before is not None else 1.0,
    )


def _is_runnable(process: ProcessSample, before: Load | None) -> bool:
    """Whether one of its threads runs or wants to.

    The states of many threads are dear and not read at every tick. Where they were not, a process that wanted to run and got some
    CPU since wants to still.
    """
    if process.state == "R":
        return True
    if process.thread_states is None:
        return before is not None and before.is_runnable and process.cpu_s > before.cpu_s
    return "R" in process.thread_states


def measure_effort(history: tuple[Tick, ...], now: Tick, rules: Rules, streams: Collection[ProcessRef] = ()) -> Effort:
    """Return the effort over the window that ends with ``now``.

    The end of the window must show it too, and computing the newest tick: what has ended is no effort. A job whose rates are
    reached over the whole window reaches them in some part of it as well, so one that works in bursts is seen at each of them.

    Args:
        history: Earlier ticks, oldest first; at least one.
        now: The newest tick.
        rules: For the length of the window.
        streams: Processes that were seen to wait for bytes of a pipe, a UNIX socket or a slow file system.
    """
    effort = _measure(history, now, rules.effort_s, streams)
    if effort.kind is not Kind.NONE and rules.effort_s > SHORT_EFFORT_S:
        lately = _measure(history, now, SHORT_EFFORT_S, streams)
        if lately.kind < effort.kind:
            effort = msgspec.structs.replace(effort, kind=lately.kind, detail=lately.detail)
    if effort.kind is Kind.COMPUTING and not _is_going_on(history[-1], now, effort.share, streams):
        return msgspec.structs.replace(effort, kind=Kind.NONE, detail="")
    return effort


def _is_going_on(before: Tick, now: Tick, share: float, streams: Collection[ProcessRef]) -> bool:
    """Whether anything was computed or moved in volume between two ticks, or somebody wants to run."""
    if _measure_streams(before, now, streams) > 0:
        return True
    seconds = now.at - before.at
    core = volume = 0.0
    for ref, load in now.loads.items():
        earlier = before.loads.get(ref)
        core += load.cpu_s if earlier is None else load.cpu_s - earlier.cpu_s + max(0.0, load.reaped_cpu_s - earlier.reaped_cpu_s)
        volume += 0 if earlier is None else max(0, load.volume - earlier.volume)
        if load.is_runnable:
            return True
    return core >= share * COMPUTING_CORE * seconds or volume >= VOLUME_BYTES_PER_S * seconds


def _measure(history: tuple[Tick, ...], now: Tick, window_s: float, streams: Collection[ProcessRef]) -> Effort:
    # The newest tick that is a whole window old, else the oldest there is.
    start = next((tick for tick in reversed(history) if now.at - tick.at >= window_s), history[0])
    seconds = max(now.at - start.at, 1e-9)
    core = busiest = faults = volume = calls = wakeups = 0.0
    is_computing = is_starved = False
    polling = set()
    # Who works gets less on a crowded machine than on one with cores to spare.
    shares = [tick.share for tick in history if tick.at > start.at] + [now.share]
    mean = sum(shares) / len(shares)
    share, starved = max(LEAST_SHARE, mean), max(STARVED_SHARE, mean)
    for ref, load in now.loads.items():
        before = start.loads.get(ref)
        own = load.cpu_s - before.cpu_s if before else load.cpu_s
        core += own
        busiest = max(busiest, own)
        least = COMPUTING_CORE
        if _is_polling(before, load, seconds):
            least = POLLING_CORE
            polling.add(ref)
        woken = 0 if before is None else load.vctx - before.vctx
        is_working = own >= WAKEUP_CPU_S * woken
        is_computing = is_computing or own / seconds >= (share * least if is_working else least)
        # Where the main thread sleeps on, whatever computes beside it may be a monitor.
        is_starved = is_starved or (woken > 0 and is_working and own / seconds >= starved * least)
        if before is None:
            continue
        # A fork makes its parent fault on every page that it touches again: no sign of work.
        if load.reaped_minflt == before.reaped_minflt:
            faults += load.faults - before.faults
        # A total that was unreadable for a tick seems to fall.
        core += max(0.0, load.reaped_cpu_s - before.reaped_cpu_s)
        volume += max(0, load.volume - before.volume)
        calls += max(0, load.calls - before.calls)
        wakeups += max(0, woken)
    core, busiest, faults, volume, calls, wakeups = (value / seconds for value in (core, busiest, faults, volume, calls, wakeups))
    is_computing = is_computing or core >= share * COMPUTING_TREE
    # Beyond what is scaled for, CPU alone tells nothing.
    crowding = min(MOST_CROWDING, share / mean)
    if not is_computing and starved < share:
        is_computing = is_starved or (core >= starved * COMPUTING_TREE and _is_wanting(history, now, window_s, polling))
        share = starved if is_computing else share
    kind, detail = _classify(
        history, now, window_s, is_computing=is_computing, core=core, busiest=busiest, faults=faults, volume=volume
    )
    streamed = _measure_streams(start, now, streams) / seconds
    if kind is Kind.NONE and streamed >= STREAM_BYTES_PER_S:
        kind, detail = Kind.COMPUTING, f"{streamed / 1024:.0f} KiB/s through a pipe, a UNIX socket or a slow file system"
    if kind is Kind.COMPUTING and share < LEAST_SHARE:
        detail = f"{detail}, where a thread gets {mean:.0%} of one at present"
    return Effort(kind, core, busiest, faults, volume, calls, wakeups, seconds, detail, share, crowding)


def _measure_streams(before: Tick, now: Tick, streams: Collection[ProcessRef]) -> float:
    """Return the most bytes that passed through the calls of one such process, a good deal at a time."""
    most = 0.0
    for ref in streams:
        earlier, later = before.loads.get(ref), now.loads.get(ref)
        if earlier is None or later is None:
            continue
        volume = later.volume - earlier.volume
        if volume >= STREAM_CALL_BYTES * (later.calls - earlier.calls):
            most = max(most, volume)
    return most


def _is_wanting(history: tuple[Tick, ...], now: Tick, window_s: float, polling: Collection[ProcessRef]) -> bool:
    """Whether at every look of the window somebody of the tree who does not merely poll wanted to run, whoever it was."""
    recent = [*(tick for tick in history if now.at - tick.at <= window_s), now]
    return len(recent) > 2 and all(
        any(load.is_runnable and ref not in polling for ref, load in tick.loads.items()) for tick in recent
    )


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
    window_s: float,
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
    recent = [tick for tick in history if now.at - tick.at <= window_s]
    for ref, load in now.loads.items():
        # Who polls is caught running now and then: three times on end in the import loop above, on an H100 host at 5 % of a core.
        is_polling = bool(recent) and _is_polling(recent[0].loads.get(ref), load, now.at - recent[0].at)
        if load.is_runnable and len(recent) >= 2 and not is_polling:
            runnable = sum(1 for tick in recent if ref in tick.loads and tick.loads[ref].is_runnable)
            if runnable >= len(recent):
                return Kind.COMPUTING, f"PID {ref} is runnable all the time and gets {busiest:.0%} of a core"
    return Kind.NONE, ""
