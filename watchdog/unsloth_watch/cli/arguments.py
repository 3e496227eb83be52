"""What the verbs' command lines have in common: exit status 64, no abbreviations, and how a run is named."""

from __future__ import annotations

import argparse
import os

from unsloth_watch.errors import EXIT_USAGE
from unsloth_watch.tell.directory import find_base


class Parser(argparse.ArgumentParser):
    """A parser of one verb.

    Args:
        verb: The verb.
        description: What it does.
        example: A command line, and what else is worth a line at the end of the help.
    """

    def __init__(self, verb: str, description: str, example: str) -> None:
        super().__init__(prog=f"unsloth-watch {verb}", description=description, epilog=f"example: {example}", allow_abbrev=False)

    def error(self, message: str) -> None:  # type: ignore[override]
        """End with status 64 and one line."""
        self.exit(EXIT_USAGE, f"unsloth-watch: {message}; see {self.prog} --help\n")

    def add_run(self, *, is_required: bool = False) -> None:
        """Take the run that is meant."""
        what = "the run: its id, the beginning of it, its name (the newest of that name), its directory, or latest"
        if is_required:
            self.add_argument("run", metavar="RUN", help=what)
        else:
            self.add_argument("run", metavar="RUN", nargs="?", default="latest", help=f"{what} (default latest)")
        self.add_runs_dir()

    def add_runs_dir(self) -> None:
        """Take the directory that holds the runs."""
        default = os.environ.get("UNSLOTH_WATCH_RUNS_DIR") or find_base(os.environ)
        self.add_argument(
            "--runs-dir", metavar="DIR", default=default, help=f"directory of the runs (default {default})".replace("%", "%%")
        )

    def add_json(self) -> None:
        """Take ``--json``."""
        self.add_argument("--json", action="store_true", help="answer with data")
