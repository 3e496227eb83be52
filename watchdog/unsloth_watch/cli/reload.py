"""``unsloth-watch reload RUN``: read the configuration again, without touching the job."""

from __future__ import annotations

from collections.abc import Sequence

from unsloth_watch.cli.order import give_order


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    return give_order(
        "reload",
        words,
        "Reads the settings again from the files and the environment of the supervisor's start. Timeouts and policies count from "
        "the next look on; what was built into the run counts from the next start on, and is named.",
        "unsloth-watch reload latest",
    )
