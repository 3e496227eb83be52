"""Towards a proof: when to survey the job's waits, what the surveys show together, and what stands against a proof."""

from __future__ import annotations

import re

import msgspec

from unsloth_watch.judge.effort import Tick
from unsloth_watch.judge.quiescence import Proof, prove
from unsloth_watch.judge.rules import GPU_TRAFFIC_PERCENT
from unsloth_watch.model.evidence import Evidence
from unsloth_watch.model.sample import GpuSample, Sample

QUIET_S = 2.0
"""Seconds without progress before a survey: a step of training rests for milliseconds."""
CORE_S = 1.0
"""Seconds over which nobody may compute before a survey."""
QUIET_CORE = 0.05
"""Share of a core above which somebody is obviously at work: a wedged job of 20 processes with its monitors was seen at 1–3 %."""
_PAUSE_S = 2.0
"""Seconds between two surveys while something changes: just above what a proof needs between them."""
_SHORT_PAUSE_S = 1.0
"""The same where only the time watched is wanting: a loop is about to be seen to go back."""
_LONGEST_PAUSE_S = 30.0
_SLACK_S = 0.1
# Ticks come every second, some ms late: two of them are two seconds, or the third would be waited for.
_BUDGET, _BUDGET_S = 8, 60.0
# Surveys at most in so many seconds: one costs 10–40 ms of CPU a process, and a job that rests often must not pay for that.
_MOST_SURVEYS = 4
_NUMBERS = re.compile(r"\d+(\.\d+)?")


class Inquiry(msgspec.Struct, frozen=True):
    """What is known towards a proof. Times are effective seconds, those in surveys the sample's own.

    Attributes:
        surveys: Surveys without progress between them, oldest first: the first, and the newest.
        asked: When surveys were asked for, within the budget's window.
        pause_s: Seconds until the next may be asked for.
        doubt: What stood against a proof at the last one.
        proof: The proof, once there is one.
        gpu_at: When a device of the job was last not known to be idle.
        moved_at: When the job last moved: progress, or a gap in the time.
        is_busy: Whether somebody computed at the last sample.
    """

    surveys: tuple[Evidence, ...] = ()
    asked: tuple[float, ...] = ()
    pause_s: float = _PAUSE_S
    doubt: str = ""
    proof: tuple[str, ...] = ()
    gpu_at: float | None = None
    moved_at: float = 0.0
    is_busy: bool = False

    @property
    def has_settled(self) -> bool:
        """Whether the last surveys found the same against a proof, so that the next is in no hurry."""
        return self.pause_s > _PAUSE_S


def weigh_surveys(inquiry: Inquiry, sample: Sample, at: float, *, is_moving: bool, core: float | None) -> Inquiry:
    """Return the inquiry after a sample.

    Args:
        inquiry: Before it.
        sample: The sample, with the surveys that were taken since the previous one.
        at: Its effective time.
        is_moving: Whether the sample shows progress or a gap in the time: then nothing that was seen before counts.
        core: Share of a core that the job uses; None where that is unknown, and then nothing counts either.
    """
    if not is_gpu_idle(sample):
        inquiry = msgspec.structs.replace(inquiry, gpu_at=at)
    is_busy = core is None or core >= QUIET_CORE
    if is_moving or is_busy:
        moved_at = at if is_moving else inquiry.moved_at
        return Inquiry(asked=inquiry.asked, gpu_at=inquiry.gpu_at, moved_at=moved_at, is_busy=is_busy)
    inquiry = msgspec.structs.replace(inquiry, is_busy=False)
    for survey in sample.surveys:
        inquiry = _weigh(inquiry, survey, at - sample.at)
    return inquiry


def _weigh(inquiry: Inquiry, survey: Evidence, shift_s: float) -> Inquiry:
    if inquiry.proof:
        return inquiry
    surveys = (*inquiry.surveys, survey)
    is_idle = inquiry.gpu_at is None or inquiry.gpu_at < surveys[0].at + shift_s
    found = prove(surveys, is_gpu_idle=is_idle)
    if isinstance(found, Proof):
        return msgspec.structs.replace(inquiry, surveys=surveys, doubt="", proof=found.steps)
    if found.is_open:
        kept = (surveys[0], *surveys[1:][1 - _MOST_SURVEYS :])
        pause_s = _SHORT_PAUSE_S if 1 < len(surveys) <= _MOST_SURVEYS else _PAUSE_S
        return msgspec.structs.replace(inquiry, surveys=kept, doubt=found.why, pause_s=pause_s)
    if found.is_blurred:
        return msgspec.structs.replace(inquiry, doubt=found.why, pause_s=_SHORT_PAUSE_S)
    # The next is compared with this one; while the same reason stands, there is less and less hurry.
    is_same = _NUMBERS.sub("", found.why) == _NUMBERS.sub("", inquiry.doubt)
    pause_s = min(2 * inquiry.pause_s, _LONGEST_PAUSE_S) if is_same else _PAUSE_S
    return msgspec.structs.replace(inquiry, surveys=(survey,), doubt=found.why, pause_s=pause_s)


def ask(inquiry: Inquiry, at: float, *, is_doubted: bool = False) -> tuple[Inquiry, bool]:
    """Return the inquiry, and whether a survey is wanted now.

    Args:
        inquiry: After this sample.
        at: Its effective time.
        is_doubted: Whether the job is suspected: then who waits for what is wanted although somebody is at work, for too little
            to count. What comes through a pipe or a UNIX socket is seen by that alone.
    """
    asked = tuple(moment for moment in inquiry.asked if at - moment < _BUDGET_S)
    is_due = not asked or at - asked[-1] >= inquiry.pause_s - _SLACK_S
    is_quiet = at - inquiry.moved_at >= QUIET_S - _SLACK_S and (is_doubted or not inquiry.is_busy)
    is_wanted = is_quiet and is_due and not inquiry.proof and len(asked) < _BUDGET
    return msgspec.structs.replace(inquiry, asked=(*asked, at) if is_wanted else asked), is_wanted


def measure_core(ticks: tuple[Tick, ...]) -> float | None:
    """Return the share of a core that the job used over the last ``CORE_S`` seconds; None where it has not been seen so long."""
    if not ticks:
        return None
    now = ticks[-1]
    start = next((tick for tick in reversed(ticks) if now.at - tick.at >= 0.9 * CORE_S), None)
    if start is None:
        return None
    used = 0.0
    for ref, load in now.loads.items():
        before = start.loads.get(ref)
        used += load.cpu_s + load.reaped_cpu_s - (before.cpu_s + before.reaped_cpu_s if before is not None else 0.0)
    return used / (now.at - start.at)


def is_gpu_idle(sample: Sample) -> bool:
    """Whether no device does anything for the job, as far as can be known: an unknown one is not idle."""
    if sample.processes is not None and all(process.has_gpu is False for process in sample.processes):
        return True
    return sample.gpus is not None and all(_is_resting(gpu) for gpu in sample.gpus)


def _is_resting(gpu: GpuSample) -> bool:
    """Whether a device works for nobody of the job; utilisation alone misses short kernels (0 % at a duty of 10 %, H100)."""
    if not gpu.is_ours:
        return True
    moves = [value for value in (gpu.dram, gpu.tensor) if value is not None]
    return gpu.utilization is not None and gpu.utilization < 1 and all(value <= GPU_TRAFFIC_PERCENT for value in moves)
