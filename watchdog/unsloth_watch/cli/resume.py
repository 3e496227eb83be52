"""``unsloth-watch resume RUN``: watch again after ``pause``."""

from __future__ import annotations

from collections.abc import Sequence

from unsloth_watch.cli.order import give_order


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    return give_order(
        "resume",
        words,
        "Watches again after a pause. The job is judged afresh: what it did or did not do meanwhile is no evidence.",
        "unsloth-watch resume latest",
    )
