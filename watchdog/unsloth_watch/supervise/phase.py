"""States of a run, and the only moves between them."""

from __future__ import annotations

import enum


class Phase(str, enum.Enum):
    """What the supervisor is doing."""

    RUNNING = "running"
    """The command runs and is judged."""
    CAPTURING = "capturing"
    """It counts as hung; evidence is being taken, and the judge goes on watching."""
    REPAIRING = "repairing"
    """A live repair was made; the judge decides whether the work moves again."""
    TERMINATING = "terminating"
    """Its tree is being ended."""
    WAITING = "waiting"
    """The backoff before the next attempt."""
    FINISHED = "finished"
    """The outcome is known."""


WATCHED = (Phase.RUNNING, Phase.CAPTURING, Phase.REPAIRING)
"""Phases in which the command runs and is judged."""

_MOVES: dict[Phase, frozenset[Phase]] = {
    Phase.RUNNING: frozenset({Phase.CAPTURING, Phase.TERMINATING, Phase.WAITING, Phase.FINISHED}),
    Phase.CAPTURING: frozenset({Phase.RUNNING, Phase.REPAIRING, Phase.TERMINATING, Phase.WAITING, Phase.FINISHED}),
    Phase.REPAIRING: frozenset({Phase.RUNNING, Phase.TERMINATING, Phase.WAITING, Phase.FINISHED}),
    Phase.TERMINATING: frozenset({Phase.WAITING, Phase.FINISHED}),
    Phase.WAITING: frozenset({Phase.RUNNING, Phase.FINISHED}),
    Phase.FINISHED: frozenset(),
}


def move(before: Phase, after: Phase) -> Phase:
    """Return ``after``.

    Raises:
        RuntimeError: The move is not in the table: a defect of the supervisor.
    """
    if after not in _MOVES[before]:
        raise RuntimeError(f"a run cannot go from {before.value} to {after.value}")
    return after
