"""A thread sleeps and then sets what the main thread waits for."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "0.6*S + 3"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import threading
import time

import zoo

ready = threading.Event()


def fetch():
    time.sleep(0.6 * zoo.stall())
    ready.set()


def main():
    zoo.train(steps=3)
    threading.Thread(target=fetch).start()
    ready.wait()
    zoo.train(steps=3, first=4)
    zoo.finish()


main()
