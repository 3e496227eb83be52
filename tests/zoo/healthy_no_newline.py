"""A job that prints a dot for every row and never a newline."""

# /// zoo
# expect = "healthy"
# lives_by = "output"
# seconds = "3*S"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import time

import zoo

end, row = time.monotonic() + 3 * zoo.stall(), 0
while time.monotonic() < end:
    row += 1
    zoo.compute(0.05)
    print("." if row % 50 else f"{row}", end="", flush=True)
    time.sleep(0.1)
print()
zoo.finish()
