"""One step of the waits-for graph: who waits, who could end that, and how that is known."""

from __future__ import annotations

import msgspec

from unsloth_watch.waits.scene import Key
from unsloth_watch.waits.want import Aim

RESTING = frozenset({Aim.IDLE, Aim.TIMED})
"""Who has nothing to do cannot be expected to end anybody's wait."""


class Edge(msgspec.Struct, frozen=True):
    """One thread may end another's wait.

    Attributes:
        waiter: Who waits.
        waker: Who could end it; None where nobody alive could.
        thing: What stands between them: ``lock disk``, ``pipe:[12]``; empty for nothing.
        why: One phrase.
        source: Where it was read.
        is_sure: Whether the evidence names the waker, rather than a set in which it is.
    """

    waiter: Key
    waker: Key | None
    thing: str
    why: str
    source: str
    is_sure: bool = True
