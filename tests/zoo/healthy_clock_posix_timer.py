"""A POSIX timer raises a signal whose handler sets what the main thread waits for."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "0.6*S + 3"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import ctypes
import signal
import struct
import threading

import zoo

ready = threading.Event()


def main():
    zoo.train(steps=3)
    signal.signal(signal.SIGTERM, lambda *_: ready.set())
    librt = ctypes.CDLL("librt.so.1")
    timer = ctypes.c_void_p()
    # struct sigevent: value, signal, SIGEV_SIGNAL. SIGTERM, as its handler alone says nothing about clocks.
    event = ctypes.create_string_buffer(struct.pack("=qii48x", 0, int(signal.SIGTERM), 0))
    assert librt.timer_create(1, event, ctypes.byref(timer)) == 0
    due = ctypes.create_string_buffer(struct.pack("=qqqq", 0, 0, int(0.6 * zoo.stall()), 0))
    assert librt.timer_settime(timer, 0, due, None) == 0
    ready.wait()
    zoo.train(steps=3, first=4)
    zoo.finish()


main()
