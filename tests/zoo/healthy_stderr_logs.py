"""Lightning-like records on stderr, one every 0.6 stall timeouts, asleep in between."""

# /// zoo
# expect = "healthy"
# lives_by = "work counter"
# seconds = "3*S"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import sys
import time

import zoo

for step in range(5):
    time.sleep(0.6 * zoo.stall())
    print(f"Epoch 0: {20 * (step + 1)}% {step + 1}/5 [train_loss={1 / (step + 1):.3f}, v_num=3]", file=sys.stderr, flush=True)
zoo.finish()
