"""``unsloth-watch restart RUN``: end the attempt that runs, and start the command anew."""

from __future__ import annotations

from collections.abc import Sequence

from unsloth_watch.cli.order import give_order


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    return give_order(
        "restart",
        words,
        "Ends the attempt that runs (SIGINT, SIGTERM, SIGKILL with the run's grace period) and starts the command anew.",
        "unsloth-watch restart latest",
    )
