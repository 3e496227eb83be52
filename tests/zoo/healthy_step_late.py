"""A step every 0.9 stall timeouts, asleep in between."""

# /// zoo
# expect = "healthy"
# lives_by = "work counter"
# seconds = "4*S"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import time

import zoo

for step in range(1, 5):
    time.sleep(0.9 * zoo.stall())
    print(f"step {step}/4 loss {2.5 / step:.4f}", flush=True)
zoo.finish()
