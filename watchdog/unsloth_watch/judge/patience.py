"""Patience afresh: after a repair of the living job its silence is counted from now, and what is known of it is kept."""

from __future__ import annotations

import msgspec

from unsloth_watch.judge.inquiry import Inquiry
from unsloth_watch.judge.memory import Memory
from unsloth_watch.model.verdict import Progress

ECHO_S = 3.0
"""Seconds after a repair in which a line never seen before is its echo: the error of a read that was cut off, not the work."""


def renew(memory: Memory) -> Memory:
    """Return a memory to which nothing has moved yet and no time has passed since the last sample.

    Counters and the furthest points of files stay: going over the same ground again is no more progress than before the repair.
    Looks and surveys of the time before say nothing about the time after.
    """
    at = memory.at if memory.at is not None else 0.0
    inquiry = Inquiry(asked=memory.inquiry.asked, gpu_at=memory.inquiry.gpu_at, moved_at=at)
    return msgspec.structs.replace(
        memory, progress=None, progress_at=at, effort_at=at, churn_at=at, ticks=(), looks=(), asked_at=None, inquiry=inquiry
    )


def find_movement(memory: Memory, renewed_at: float) -> Progress | None:
    """Return the evidence that a repaired job moves again; None where there is none yet.

    Args:
        memory: After the newest sample.
        renewed_at: Its time when it was renewed, effective seconds.
    """
    progress = memory.progress
    is_echo = progress is not None and progress.kind == "output" and progress.at - renewed_at < ECHO_S
    return None if is_echo else progress
