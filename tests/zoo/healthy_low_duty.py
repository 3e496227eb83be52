"""A job that computes for 15 % of the time and says nothing: it waits for a slow device in between."""

# /// zoo
# expect = "healthy"
# lives_by = "cpu"
# seconds = "3*S"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import time

import zoo

end = time.monotonic() + 3 * zoo.stall()
while time.monotonic() < end:
    zoo.compute(0.075)
    time.sleep(0.425)
zoo.finish()
