"""The holder of the interpreter lock waits for the end of a native thread, which does not need that lock and ends by the clock."""

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

free, kept = ctypes.CDLL(None), ctypes.PyDLL(None)


def beat():
    while True:
        time.sleep(0.5)


def main():
    zoo.train(steps=3)
    threading.Thread(target=beat, daemon=True).start()
    thread, pause = ctypes.c_ulong(), ctypes.c_void_p(int(0.6e6 * zoo.stall()))
    assert free.pthread_create(ctypes.byref(thread), None, free.usleep, pause) == 0
    kept.pthread_join(thread, None)
    zoo.train(steps=3, first=4)
    zoo.finish()


main()
