"""Rows are kept in memory, 2 MiB a second, with little CPU."""

# /// zoo
# expect = "healthy"
# lives_by = "memory"
# seconds = "3*S"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import time

import zoo

rows, end = [], time.monotonic() + 3 * zoo.stall()
while time.monotonic() < end:
    rows.append(b"x" * (1 << 20))
    time.sleep(0.5)
zoo.finish()
