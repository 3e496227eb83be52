"""Waiting for a condition of the real world, with a deadline; the only place in the tests that polls."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


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
