"""Training is over; an atexit hook packs the cache for twice the stall timeout."""

# /// zoo
# expect = "healthy"
# lives_by = "cpu"
# seconds = "2*S + 2"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import atexit

import zoo


def pack():
    zoo.digest(2 * zoo.stall())
    zoo.finish()


atexit.register(pack)
zoo.train(steps=8, total=8)
print("training done", flush=True)
