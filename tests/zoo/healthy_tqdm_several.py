"""Three bars at once, of which one moves, slowly."""

# /// zoo
# expect = "healthy"
# lives_by = "work counter"
# seconds = "3*S"
# needs = ["tqdm"]
# stdin = "null"
# ///

from __future__ import annotations

import time

import tqdm

import zoo

bars = [tqdm.tqdm(total=40, desc=f"shard {number}", position=number, mininterval=0.0) for number in range(3)]
for _ in range(9):
    time.sleep(zoo.stall() / 3)
    bars[2].update()
for bar in bars:
    bar.close()
zoo.finish()
