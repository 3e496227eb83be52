"""Words of a verb's command line as values; what is none is an error of the command line."""

from __future__ import annotations

import argparse

from unsloth_watch.config.duration import parse_duration


def parse_age(word: str) -> float:
    """Return seconds, for an option that takes a duration."""
    try:
        return parse_duration(word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parse_number(word: str) -> int:
    """Return a whole number of at least 1, for an option that names one of several."""
    return _parse_whole(word, 1)


def parse_count(word: str) -> int:
    """Return a whole number of at least 0, for an option that says how many."""
    return _parse_whole(word, 0)


def _parse_whole(word: str, least: int) -> int:
    if not (word.isascii() and word.isdigit()) or int(word) < least:
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number of at least {least}")
    return int(word)
