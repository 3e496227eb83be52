"""What the judge remembers between samples: a value, made anew by each judgement, and thrown away with each attempt."""

from __future__ import annotations

import msgspec

from unsloth_watch.judge.connections import Flows
from unsloth_watch.judge.data import DataMemory
from unsloth_watch.judge.effort import Tick
from unsloth_watch.judge.inquiry import Inquiry
from unsloth_watch.judge.receipts import Receipts
from unsloth_watch.judge.work import WorkMemory
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.model.sample import Look
from unsloth_watch.model.verdict import Progress


class Memory(msgspec.Struct, frozen=True):
    """State of the judge. All times are effective seconds: the sample's clock with its gaps taken out.

    Attributes:
        at: Time of the previous sample; None before the first.
        clock: The previous sample's own ``at``.
        lost_s: Gaps so far.
        progress: Newest evidence of work or data.
        progress_at: When that was; the start of the attempt if there is none.
        effort_at: Newest moment of any effort or progress.
        churn_at: Newest moment of churning or progress.
        work: Counters.
        data: Furthest points and meters.
        flows: TCP connections by inode, each direction by itself.
        ticks: Loads over the effort window, oldest first.
        looks: Looks at stacks since the last progress, oldest first.
        asked_at: When a look was last asked for.
        heartbeats: The command's own count when it last told one; None before.
        phase: Last guess of the phase.
        inquiry: What is known towards a proof.
        receipts: What was taken of data that nobody counts.
        streams: Processes that waited for bytes other than over TCP when they were surveyed since the last progress.
    """

    at: float | None = None
    clock: float = 0.0
    lost_s: float = 0.0
    progress: Progress | None = None
    progress_at: float = 0.0
    effort_at: float = 0.0
    churn_at: float = 0.0
    work: WorkMemory = WorkMemory()
    data: DataMemory = DataMemory()
    flows: Flows = {}
    ticks: tuple[Tick, ...] = ()
    looks: tuple[Look, ...] = ()
    asked_at: float | None = None
    heartbeats: int | None = None
    phase: str = "start"
    inquiry: Inquiry = Inquiry()
    streams: frozenset[ProcessRef] = frozenset()
    receipts: Receipts = Receipts()
