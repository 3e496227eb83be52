"""Silent pure Python for three stall timeouts: packing and shuffling."""

# /// zoo
# expect = "healthy"
# lives_by = "cpu"
# seconds = "3*S"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import zoo

zoo.train(steps=2)
zoo.compute(3 * zoo.stall())
zoo.finish()
