"""Native work in threads; the main thread joins them."""

# /// zoo
# expect = "healthy"
# lives_by = "cpu"
# seconds = "3*S"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import threading

import zoo

threads = [threading.Thread(target=zoo.digest, args=(3 * zoo.stall(),)) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
zoo.finish()
