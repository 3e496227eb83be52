"""Motion: whether looks at the stacks keep finding new places, or go round in a closed set."""

from __future__ import annotations

from unsloth_watch.judge.rules import CLOSED_SET_LOOKS, CLOSED_SET_STACKS
from unsloth_watch.model.sample import Look

MOST_LOOKS = 128


def is_closed_set(looks: tuple[Look, ...]) -> bool:
    """Whether enough looks found so few stacks, and lately no new one, that the job goes round in a circle.

    A stack that never changes is no hang by itself (a matrix product does the same): the caller needs a broken rhythm too.
    """
    per_process: dict[object, list[str]] = {}
    for look in looks:
        per_process.setdefault(look.ref, []).append(look.stack)
    judged = [stacks for stacks in per_process.values() if len(stacks) >= CLOSED_SET_LOOKS]
    return bool(judged) and all(_is_closed(stacks) for stacks in judged)


def _is_closed(stacks: list[str]) -> bool:
    half = len(stacks) // 2
    return len(set(stacks)) <= CLOSED_SET_STACKS and set(stacks[half:]) <= set(stacks[:half])
