"""``unsloth-watch pause RUN``: judge nothing until ``resume``, for somebody who debugs the job."""

from __future__ import annotations

from collections.abc import Sequence

from unsloth_watch.cli.order import give_order


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    return give_order(
        "pause",
        words,
        "Stops watching: the job runs on, nothing is judged and nobody is ended for a hang, until unsloth-watch resume.",
        "unsloth-watch pause latest",
    )
