"""Quick steps, then an evaluation that computes in silence for twice the stall timeout, then steps again."""

# /// zoo
# expect = "healthy"
# lives_by = "cpu"
# seconds = "2*S + 6"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import zoo

zoo.train(steps=10, step_s=0.2)
print("Running Evaluation", flush=True)
zoo.digest(2 * zoo.stall())
zoo.train(steps=10, step_s=0.2, first=11)
zoo.finish()
