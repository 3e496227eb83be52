"""What the parsers of all verbs have in common: an error is one line and status 64, and words become values."""

from __future__ import annotations

import argparse

from unsloth_watch.config.duration import parse_duration
from unsloth_watch.errors import EXIT_USAGE


class Parser(argparse.ArgumentParser):
    """A parser whose errors look like all others of this program."""

    def error(self, message: str) -> None:  # type: ignore[override]
        """Say what is wrong in one line and end."""
        self.exit(EXIT_USAGE, f"unsloth-watch: {message}; see {self.prog} --help\n")


def parse_age(word: str) -> float:
    """Return seconds, for an option that takes a duration."""
    try:
        return parse_duration(word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
