"""A resumed run skips the batches that it has seen: the bar stands while the CPU works (transformers#11284)."""

# /// zoo
# expect = "healthy"
# lives_by = "cpu"
# seconds = "3*S + 4"
# needs = ["tqdm"]
# stdin = "null"
# ///

from __future__ import annotations

import tqdm

import zoo

with tqdm.tqdm(total=3000, initial=2000) as bar:
    zoo.compute(3 * zoo.stall())
    for _ in range(10):
        zoo.compute(0.3)
        bar.update()
zoo.finish()
