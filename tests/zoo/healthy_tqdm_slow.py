"""A bar with a step every 0.7 stall timeouts."""

# /// zoo
# expect = "healthy"
# lives_by = "work counter"
# seconds = "2.8*S"
# needs = ["tqdm"]
# stdin = "null"
# ///

from __future__ import annotations

import time

import tqdm

import zoo

for _ in tqdm.tqdm(range(4), desc="Merging", mininterval=0.1):
    time.sleep(0.7 * zoo.stall())
zoo.finish()
