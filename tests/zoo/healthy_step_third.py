"""A step every third of the stall timeout, asleep in between (a device computes)."""

# /// zoo
# expect = "healthy"
# lives_by = "work counter"
# seconds = "3*S"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import time

import zoo

for step in range(1, 10):
    time.sleep(zoo.stall() / 3)
    print(f"{{'loss': {2.5 / step:.4f}, 'step': {step}, 'epoch': {step / 10}}}", flush=True)
zoo.finish()
