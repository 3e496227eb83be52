"""What the judge says after each sample."""

from __future__ import annotations

import enum

import msgspec


class State(str, enum.Enum):
    """What a job is doing, in the judge's eyes."""

    STARTING = "starting"
    """Nothing to compare with yet."""
    PROGRESSING = "progressing"
    """Work or data moved."""
    COMPUTING = "computing"
    """CPU is burnt and nothing else shows: progress is presumed up to the busy timeout."""
    QUIET = "quiet"
    """Neither work, data nor computing shows; the stall timeout runs."""
    SUSPECTED = "suspected"
    """Quiet for long enough to look at stacks."""
    HUNG = "hung"
    """Proven, or beyond its timeout."""


class Tier(int, enum.Enum):
    """Strength of progress evidence; lower is stronger."""

    WORK = 1
    """A counter of the work advanced."""
    DATA = 2
    """Data moved on to new ground."""
    MOTION = 3
    """CPU was burnt: presumed, never proof."""


class Progress(msgspec.Struct, frozen=True):
    """One piece of evidence that the work got further.

    Attributes:
        at: Monotonic seconds.
        tier: Strength.
        kind: ``counter``, ``output``, ``heartbeat``, ``file``, ``storage``, ``connection``, ``memory``, ``faults``, ``children``,
            ``gpu``, ``cpu`` or ``process``.
        detail: One phrase for people: ``step 30 → 31 of 60``.
    """

    at: float
    tier: Tier
    kind: str
    detail: str


class Verdict(msgspec.Struct, frozen=True):
    """The judge's answer to one sample.

    Attributes:
        state: What the job is doing.
        at: Monotonic seconds of the sample.
        quiet_s: Seconds since the last progress of tier WORK or DATA, gaps taken out.
        limit_s: Quiet seconds at which this job, as it is now, counts as hung.
        last_progress: Newest WORK or DATA evidence.
        reasons: What the verdict rests on, one phrase each.
        is_proven: True when the hang was proven rather than waited for.
        wants_look: True when a nonblocking look at the stacks would help now.
        looks: How many such looks, evenly over the time to the next sample.
        phase: Guess of what the job is in.
        degraded: Senses that were missing, by which the judge became slower.
        wants_survey: True when a survey of what every thread waits for would help now.
        proof: The proof, step by step, each with the file that it was read from; empty unless ``is_proven``.
        doubt: What stands against a proof at the moment; empty where none was tried.
    """

    state: State
    at: float
    quiet_s: float
    limit_s: float
    last_progress: Progress | None
    reasons: tuple[str, ...]
    is_proven: bool = False
    wants_look: bool = False
    looks: int = 1
    phase: str = "unknown"
    degraded: tuple[str, ...] = ()
    wants_survey: bool = False
    proof: tuple[str, ...] = ()
    doubt: str = ""
