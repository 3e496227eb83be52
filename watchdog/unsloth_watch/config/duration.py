"""Durations as people write them: ``90``, ``90s``, ``3m``, ``1h30m``, ``500ms``."""

from __future__ import annotations

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST_S = 366 * 86400.0


def parse_duration(text: str) -> float:
    """Return seconds.

    Args:
        text: A bare number of seconds, or numbers with units ms, s, m, h, d from large to small.

    Raises:
        ValueError: Not a duration; zero, negative, longer than a year, or with units out of order. The message says which.
    """
    word = text.strip().lower()
    seconds = _bare_number(word)
    if seconds is None:
        seconds = _with_units(word, text)
    if not 0 < seconds <= _LONGEST_S:
        raise ValueError(f"{text!r} is not a duration between 1ms and a year")
    return seconds


def _bare_number(word: str) -> float | None:
    # float() also reads "nan", "inf", "1e3" and "1_0", which no person means as a duration.
    if word and all(character in "0123456789." for character in word) and word.count(".") <= 1 and word != ".":
        return float(word)
    return None


def _with_units(word: str, text: str) -> float:
    seconds, number, last_factor = 0.0, "", float("inf")
    position = 0
    while position < len(word):
        character = word[position]
        if character in "0123456789.":
            number += character
            position += 1
            continue
        unit = "ms" if word.startswith("ms", position) else character
        factor = _UNITS.get(unit)
        value = _bare_number(number)
        if factor is None or value is None:
            raise ValueError(f"{text!r} is not a duration; write 90, 90s, 3m or 1h30m")
        if factor >= last_factor:
            raise ValueError(f"{text!r} has its units out of order; write the largest first, as in 1h30m")
        seconds, number, last_factor = seconds + value * factor, "", factor
        position += len(unit)
    if number or not word:
        raise ValueError(f"{text!r} is not a duration; write 90, 90s, 3m or 1h30m")
    return seconds


def format_duration(seconds: float) -> str:
    """Return the shortest way to write it that ``parse_duration`` reads back, to the millisecond."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    if seconds != int(seconds) and seconds < 60:
        return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
    rest = round(seconds)
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)
