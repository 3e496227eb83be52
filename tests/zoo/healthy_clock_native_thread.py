"""A thread of native code sleeps, and the end of its process is awaited with pthread_join and a pipe."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "0.6*S + 3"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import ctypes
import os
import threading

import zoo

libc = ctypes.CDLL(None)


def fetch(writer):
    libc.usleep(int(0.6e6 * zoo.stall()))
    os.write(writer, b"!")


def main():
    zoo.train(steps=3)
    reader, writer = os.pipe()
    threading.Thread(target=fetch, args=(writer,)).start()
    assert os.read(reader, 1) == b"!"
    zoo.train(steps=3, first=4)
    zoo.finish()


main()
