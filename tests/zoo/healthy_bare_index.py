"""Results come from elsewhere, a row every 0.4 stall timeouts: xgboost's way of telling, with the round in brackets and no word for it."""

# /// zoo
# expect = "healthy"
# lives_by = "work counter"
# seconds = "2.8*S"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import time

import zoo

for number in range(7):
    time.sleep(0.4 * zoo.stall())
    print(f"[{number}]\ttrain-rmse:{2.5 / (number + 1):.5f}", flush=True)
zoo.finish()
