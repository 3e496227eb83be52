"""Waiting for a condition of the real world, with a deadline; the only place in the tests that polls."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SLEEPS = ("clock_nanosleep", "select", "pselect6")
"""Calls of a sleep: of programs and of Python since 3.11, and of older ones with a C library of before 2.34 and since."""


def until(condition: Callable[[], T], seconds: float = 30.0, every: float = 0.01) -> T:
    """Return the first true value of ``condition``; fail with its last value when ``seconds`` pass."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            msg = f"condition still {value!r} after {seconds} s"
            raise AssertionError(msg)
        time.sleep(every)
