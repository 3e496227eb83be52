"""The judgement: one sample in, one verdict out, never a look at a clock or at the machine.

The questions, in this order: did the work move? did data move on to new ground? does somebody compute? If none of these, the
stall timeout runs. It is never asked whether the job is busy: the unbounded import loop of unsloth_zoo 2025.3.1 reads files 180
times a second and gets nowhere.
"""

from __future__ import annotations

import msgspec

from unsloth_watch.judge.connections import weigh_connections
from unsloth_watch.judge.data import has_gpu_effort, pass_over_files, weigh_files, weigh_gpus, weigh_processes
from unsloth_watch.judge.effort import Effort, Kind, measure_effort, tick_of
from unsloth_watch.judge.inquiry import ask, measure_core, weigh_surveys
from unsloth_watch.judge.memory import Memory
from unsloth_watch.judge.phase import guess_phase
from unsloth_watch.judge.receipts import weigh_receipts
from unsloth_watch.judge.rules import BURST_LOOKS, COMPUTING_CORE, GPU_BUSY_PERCENT, LATE_LOOKS, MOST_BURST, Rules
from unsloth_watch.judge.stacks import MOST_LOOKS, is_closed_set
from unsloth_watch.judge.streams import find_streams
from unsloth_watch.judge.work import broken_rhythm, weigh_readings
from unsloth_watch.model.process import ProcessSample
from unsloth_watch.model.sample import Sample
from unsloth_watch.model.verdict import Progress, State, Tier, Verdict

_IDLE = Effort(Kind.NONE, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, "")

UNREAD = "process I/O"
"""Name of the sense that lacks what some process reads and writes."""


def judge(memory: Memory, sample: Sample, rules: Rules) -> tuple[Memory, Verdict]:
    """Return the memory after ``sample``, and what to think of the job.

    Args:
        memory: From the previous sample, ``Memory()`` for the first of an attempt.
        sample: The newest sample; its ``at`` must not be older than the previous one's.
        rules: What the user chose.
    """
    if memory.at is None:
        return _begin(memory, sample), Verdict(
            State.STARTING, sample.at, 0.0, rules.stall_s, None, ("first sample",), phase="start"
        )
    # Time in which nobody ran, or in which the processes could not be seen, is no silence.
    elapsed = max(0.0, sample.at - memory.clock)
    lost = min(elapsed, sample.gap_s) if sample.processes is not None else elapsed
    memory = msgspec.structs.replace(memory, lost_s=memory.lost_s + lost, clock=sample.at)
    at = sample.at - memory.lost_s
    memory, found = _weigh(memory, sample, rules, at)
    memory, effort = _measure(memory, sample, rules, at)
    memory, effort = _receive(memory, sample, rules, effort, at)
    memory = _remember(memory, sample, found, effort, at)
    memory = _inquire(memory, sample, at, has_progress=bool(found))
    return _conclude(memory, sample, rules, effort)


def _begin(memory: Memory, sample: Sample) -> Memory:
    at = sample.at
    memory = msgspec.structs.replace(
        memory, at=at, clock=at, progress_at=at, effort_at=at, churn_at=at, heartbeats=sample.heartbeats
    )
    # The first sample only sets the marks that later ones are measured against.
    rules = Rules()
    memory, _ = _weigh(memory, sample, rules, at)
    if sample.processes is not None:
        memory = msgspec.structs.replace(memory, ticks=(tick_of(sample.processes, at),))
    return memory


def _weigh(memory: Memory, sample: Sample, rules: Rules, at: float) -> tuple[Memory, list[Progress]]:
    """Collect all evidence that the work got further, strongest first."""
    found: list[Progress] = []
    work, data, flows = memory.work, memory.data, memory.flows
    if sample.heartbeats is not None and memory.heartbeats is not None and sample.heartbeats != memory.heartbeats:
        found.append(Progress(at, Tier.WORK, "heartbeat", f"the command reported step {sample.heartbeats}"))
    if sample.output is not None:
        work, more = weigh_readings(work, sample.output.readings, at, memory.at)
        found += more
    if sample.files is not None:
        data, more = weigh_files(data, sample.files, rules, at)
        found += more
    else:
        data = pass_over_files(data, at)
    if sample.processes is not None:
        data, more = weigh_processes(data, sample.processes, rules, at)
        found += more
    if sample.gpus is not None:
        data, more = weigh_gpus(data, sample.gpus, at)
        found += more
    if sample.connections is not None:
        since = memory.at if memory.at is not None else at
        flows, more = weigh_connections(flows, sample.connections, rules, since=since, at=at)
        found += more
    heartbeats = sample.heartbeats if sample.heartbeats is not None else memory.heartbeats
    memory = msgspec.structs.replace(memory, work=work, data=data, flows=flows, heartbeats=heartbeats)
    return memory, sorted(found, key=lambda one: one.tier)


def _measure(memory: Memory, sample: Sample, rules: Rules, at: float) -> tuple[Memory, Effort]:
    if sample.processes is None or not memory.ticks:
        ticks = memory.ticks if sample.processes is None else (tick_of(sample.processes, at),)
        return msgspec.structs.replace(memory, ticks=ticks), _IDLE
    now = tick_of(sample.processes, at, memory.ticks[-1], cpu_share=sample.cpu_share)
    streams = memory.streams.union(*(find_streams(survey) for survey in sample.surveys))
    effort = measure_effort(memory.ticks, now, rules, streams)
    # Keep one tick that is older than the window, so that the window is always whole.
    old = [tick for tick in memory.ticks if at - tick.at > rules.effort_s][-1:]
    kept = (*old, *(tick for tick in memory.ticks if at - tick.at <= rules.effort_s), now)
    return msgspec.structs.replace(memory, ticks=kept, streams=streams), effort


def _receive(memory: Memory, sample: Sample, rules: Rules, effort: Effort, at: float) -> tuple[Memory, Effort]:
    """Weigh what is taken of data that nobody counts: a stream of it is effort where there is no other."""
    receipts = weigh_receipts(memory.receipts, sample.receivers, rules, at)
    if receipts.received_at == at and effort.kind is Kind.NONE:
        effort = msgspec.structs.replace(effort, kind=Kind.COMPUTING, detail=receipts.said)
    return msgspec.structs.replace(memory, receipts=receipts), effort


def _remember(memory: Memory, sample: Sample, found: list[Progress], effort: Effort, at: float) -> Memory:
    has_effort = effort.kind is not Kind.NONE
    if sample.gpus and has_gpu_effort(sample.gpus, GPU_BUSY_PERCENT):
        has_effort = True
    # While our own relay is behind, the command may be waiting for us and nobody else.
    if sample.output is not None and sample.output.is_blocked:
        has_effort = True
    if found:
        # What is told of is the work, where something else moved as well.
        told = next((one for one in found if one.tier is Tier.WORK), found[0])
        memory = msgspec.structs.replace(
            memory, progress=told, progress_at=at, effort_at=at, churn_at=at, looks=(), asked_at=None, streams=frozenset()
        )
    else:
        memory = msgspec.structs.replace(
            memory,
            effort_at=at if has_effort else memory.effort_at,
            # A window that reaches back beyond the last progress shows what belonged to that.
            churn_at=at if effort.kind is Kind.CHURNING and at - memory.progress_at > effort.seconds else memory.churn_at,
            looks=(*memory.looks, *sample.looks)[-MOST_LOOKS:],
        )
    phase, _ = guess_phase(memory.phase, sample.looks, sample.output.readings if sample.output is not None else ())
    return msgspec.structs.replace(memory, at=at, phase=phase)


def _inquire(memory: Memory, sample: Sample, at: float, *, has_progress: bool) -> Memory:
    """Weigh the surveys of a sample, and forget the earlier ones where the job moves."""
    is_moving = has_progress or sample.processes is None or sample.gap_s > 0
    is_moving = is_moving or (sample.output is not None and sample.output.is_blocked)
    core = measure_core(memory.ticks)
    return msgspec.structs.replace(memory, inquiry=weigh_surveys(memory.inquiry, sample, at, is_moving=is_moving, core=core))


def _conclude(memory: Memory, sample: Sample, rules: Rules, effort: Effort) -> tuple[Memory, Verdict]:
    at = memory.at or 0.0
    missing = _missing_senses(sample)
    # Without a sense the judge is slower, never bolder.
    patience = max(2.0 if missing else 1.0, effort.crowding)
    silent_s, idle_s = at - memory.progress_at, at - memory.effort_at
    broken = broken_rhythm(memory.work, rules, at)
    # Who takes what comes, and nobody counts it, stands in the same places all the time.
    is_taking = memory.receipts.is_flowing(at, patience * rules.stall_s)
    is_circling = broken is not None and not is_taking and is_closed_set(memory.looks)
    busy_limit = patience * (2 * rules.stall_s if is_circling else rules.busy_s)
    if not is_circling and memory.churn_at > memory.progress_at:
        # It paged or ended children lately: that much longer, but not for ever.
        busy_limit = max(busy_limit, patience * rules.churn_s)
    stall_limit = patience * rules.stall_s
    inquiry, wants_survey = ask(memory.inquiry, at, is_doubted=idle_s >= rules.suspect_after_s)
    memory = msgspec.structs.replace(memory, inquiry=inquiry)
    is_hung = idle_s >= stall_limit or silent_s >= busy_limit or bool(inquiry.proof)
    is_computing = idle_s < rules.look_after_s and silent_s >= rules.look_after_s
    if is_hung:
        state = State.HUNG
    elif silent_s < rules.look_after_s:
        state = State.PROGRESSING
    elif is_computing:
        state = State.COMPUTING
    else:
        state = State.SUSPECTED if idle_s >= rules.suspect_after_s else State.QUIET
    is_late = is_computing and silent_s >= busy_limit / 2
    wanted = _count_looks(memory, rules, at, idle_s=idle_s, is_broken=broken is not None, is_late=is_late)
    if wanted:
        memory = msgspec.structs.replace(memory, asked_at=at)
    reasons = _reasons(memory, effort, silent_s=silent_s)
    if broken is not None:
        reasons.append(f"the rhythm of {broken.name} broke at {broken.best:g}" + (f" of {broken.total:g}" if broken.total else ""))
    if is_circling:
        places = len({look.stack for look in memory.looks})
        reasons.append(f"{len(memory.looks)} looks at the stacks found {places} place{'s' if places > 1 else ''}")
    if inquiry.proof:
        reasons.insert(0, inquiry.proof[-1])
    elif inquiry.doubt:
        reasons.insert(1, f"not proven: {inquiry.doubt}")
    return memory, Verdict(
        state=state,
        at=sample.at,
        quiet_s=silent_s if is_computing or silent_s >= busy_limit else idle_s,
        limit_s=busy_limit if is_computing or silent_s >= busy_limit else stall_limit,
        last_progress=memory.progress,
        reasons=tuple(reasons),
        wants_look=wanted > 0,
        looks=max(1, wanted),
        phase=memory.phase,
        degraded=missing,
        is_proven=bool(inquiry.proof),
        wants_survey=wants_survey,
        proof=inquiry.proof,
        doubt=inquiry.doubt,
    )


def is_unread(process: ProcessSample) -> bool:
    """Whether a living process does not show what it reads and writes."""
    return process.state not in "ZX" and None in (process.read_bytes, process.write_bytes, process.rchar, process.wchar)


def _missing_senses(sample: Sample) -> tuple[str, ...]:
    """Return the senses whose absence could hide progress."""
    missing = []
    processes = sample.processes
    if processes is None:
        missing.append("processes")
    elif any(map(is_unread, processes)):
        missing.append(UNREAD)
    if sample.output is None:
        missing.append("output")
    if sample.files is None:
        missing.append("files")
    if sample.connections is None or "connections" in sample.degraded:
        missing.append("connections")
    if sample.receivers is None or any(one.vctx is None for one in sample.receivers):
        missing.append("receivers")
    if sample.gpus is None and (processes is None or any(process.has_gpu is not False for process in processes)):
        missing.append("gpu")
    return tuple(missing)


def _count_looks(memory: Memory, rules: Rules, at: float, *, idle_s: float, is_broken: bool, is_late: bool) -> int:
    """Ask rarer and rarer while idle; steadily while a rhythm is broken, where many are needed, and several a sample if need be.

    Half-way to the busy timeout some are taken too, so that the cause of a silent loop can be told when it is over.
    """
    if idle_s < rules.look_after_s and not is_broken:
        is_due = memory.asked_at is None or at - memory.asked_at >= rules.busy_s / LATE_LOOKS
        return 1 if is_late and is_due else 0
    if memory.asked_at is None:
        return 1
    since = at - memory.asked_at
    if not is_broken:
        return int(since >= max(rules.look_after_s, idle_s / 4))
    processes = len({look.ref for look in memory.looks})
    most = min(MOST_BURST, BURST_LOOKS // processes) if processes else 1
    return min(int(since / rules.look_apart_s), max(1, most))


def _reasons(memory: Memory, effort: Effort, *, silent_s: float) -> list[str]:
    last = memory.progress.detail if memory.progress is not None else "none since the start"
    reasons = [f"no work and no data moved for {silent_s:.0f} s (last: {last})"]
    if effort.kind is not Kind.NONE:
        reasons.append(effort.detail)
    elif effort.seconds:
        least = effort.share * COMPUTING_CORE
        reasons.append(f"{effort.core:.1%} of a core over {effort.seconds:.0f} s (computing starts at {least:.0%})")
    if memory.receipts.said not in ("", effort.detail):
        reasons.append(memory.receipts.said)
    if effort.crowding > 1:
        reasons.append(f"more threads want to run here than its cores can serve: limits are {effort.crowding:.1f} times longer")
    if effort.calls >= 1 or effort.wakeups >= 1:
        reasons.append(
            f"{effort.calls:.0f} reads/s, {effort.volume / 1024:.1f} KiB/s and {effort.wakeups:.0f} wake-ups/s, all on known ground"
        )
    return reasons
