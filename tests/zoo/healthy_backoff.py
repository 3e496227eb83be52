"""A client backs off for 0.8 stall timeouts and then goes on."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "1.6*S + 4"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import time

import zoo

zoo.train(steps=8)
for number, delay in enumerate((0.1, 0.5, 0.8)):
    print(f"429 Too Many Requests, waiting {delay * zoo.stall():.1f} s", flush=True)
    time.sleep(delay * zoo.stall())
    zoo.train(steps=2, first=9 + 2 * number)
zoo.finish()
