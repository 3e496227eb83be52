"""A monitor prints the same line every second while the main thread computes in silence and in the end is done."""

# /// zoo
# expect = "healthy"
# lives_by = "cpu"
# seconds = "3*S"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import threading
import time

import zoo


def report():
    while True:
        time.sleep(1)
        print("still working...", flush=True)


threading.Thread(target=report, daemon=True).start()
zoo.digest(3 * zoo.stall())
zoo.finish()
