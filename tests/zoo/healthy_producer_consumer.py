"""Threads hand rows over through a bounded queue; the consumer is slow and silent, the producer waits."""

# /// zoo
# expect = "healthy"
# lives_by = "cpu"
# seconds = "3*S"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import queue
import threading
import time

import zoo

rows: queue.Queue[float | None] = queue.Queue(2)


def produce():
    end = time.monotonic() + 3 * zoo.stall()
    while time.monotonic() < end:
        rows.put(1.0)
    rows.put(None)


threading.Thread(target=produce).start()
while rows.get() is not None:
    zoo.compute(zoo.stall() / 4)
zoo.finish()
