"""Time and durations as people and RFC 3339 write them."""

from __future__ import annotations

import time


def format_timestamp(wall: float) -> str:
    """Return Unix seconds as UTC with milliseconds: ``2026-11-24T07:41:11.123Z`` (RFC 3339)."""
    milliseconds = round(wall * 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000)) + f".{milliseconds % 1000:03d}Z"


def format_duration(seconds: float | None) -> str:
    """Return seconds in at most two units: ``0.4 s``, ``45 s``, ``3 min 12 s``, ``1 h 5 min``; ``unknown`` for None."""
    if seconds is None:
        return "unknown"
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    for big, small, big_unit, small_unit in ((86400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if whole >= big:
            count, rest = divmod(whole, big)
            return f"{count} {big_unit}" + (f" {rest // small} {small_unit}" if rest // small else "")
    return f"{whole} s"
