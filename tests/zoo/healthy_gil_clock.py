"""A native call sleeps with the interpreter lock in its hand; the other threads wait for that lock meanwhile."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "0.6*S + 3"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import ctypes
import threading
import time

import zoo

kept = ctypes.PyDLL(None)


def beat():
    while True:
        time.sleep(0.5)


def main():
    zoo.train(steps=3)
    for _ in range(2):
        threading.Thread(target=beat, daemon=True).start()
    kept.usleep(int(0.6e6 * zoo.stall()))
    zoo.train(steps=3, first=4)
    zoo.finish()


main()
