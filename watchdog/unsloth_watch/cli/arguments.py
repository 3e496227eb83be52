"""What the verbs' command lines have in common: help and errors of one form, no abbreviations, and how a run is named."""

from __future__ import annotations

import argparse
import os
import shutil
import textwrap

from unsloth_watch.errors import EXIT_USAGE
from unsloth_watch.tell.directory import find_kept_base

WIDTH = 80
"""Columns of a help text: what every terminal has."""
OF_A_RUN = "0 done, 1 refused, 3 there is no such run, or it is over"
"""Exit statuses of the verbs that ask something of a run."""


class Parser(argparse.ArgumentParser):
    """A parser of one verb, or of a part of one.

    Args:
        verb: The verb; empty where ``prog`` is given.
        description: What it does.
        example: A command line.
        status: Exit statuses and their meanings.
        prog: The words before its arguments, as argparse gives them to the parser of a part.
        usage: Its usage, where argparse's own would not do.
    """

    def __init__(
        self,
        verb: str = "",
        description: str = "",
        example: str = "",
        *,
        status: str = "",
        prog: str | None = None,
        usage: str | None = None,
    ) -> None:
        ending = [f"example: {example}", textwrap.fill(f"exit status: {status}", WIDTH - 2)] if status else [f"example: {example}"]
        super().__init__(
            prog=prog or f"unsloth-watch {verb}",
            usage=usage,
            description=textwrap.fill(description, WIDTH - 2),
            epilog="\n".join(ending),
            allow_abbrev=False,
            formatter_class=_Help,
        )

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
        default = os.environ.get("UNSLOTH_WATCH_RUNS_DIR") or find_kept_base(os.environ)
        self.add_argument(
            "--runs-dir", metavar="DIR", default=default, help=f"directory of the runs (default {default})".replace("%", "%%")
        )

    def add_json(self) -> None:
        """Take ``--json``."""
        self.add_argument("--json", action="store_true", help="answer with data")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Lines of 80 columns at most, whatever the terminal has."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=min(WIDTH, shutil.get_terminal_size().columns) - 2)
