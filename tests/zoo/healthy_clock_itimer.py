"""An interval timer of the kernel raises a signal whose handler sets what the main thread waits for."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "0.6*S + 3"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import signal
import threading

import zoo

ready = threading.Event()


def main():
    zoo.train(steps=3)
    signal.signal(signal.SIGALRM, lambda *_: ready.set())
    signal.setitimer(signal.ITIMER_REAL, 0.6 * zoo.stall())
    ready.wait()
    zoo.train(steps=3, first=4)
    zoo.finish()


main()
