"""A native call reads from a pipe with the interpreter lock in its hand; a process outside the tree has the other end."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "0.6*S + 3"
# needs = []
# stdin = "null"
# outside = ["wake", "waker"]
# ///

from __future__ import annotations

import ctypes
import os
import threading
import time

import zoo

kept = ctypes.PyDLL(None)


def beat():
    while True:
        time.sleep(0.5)


def main():
    zoo.train(steps=3)
    reader, writer = os.pipe()
    waker = zoo.ask_waker("write", descriptors=(writer,))
    os.close(writer)
    threading.Thread(target=beat, daemon=True).start()
    assert kept.read(reader, ctypes.create_string_buffer(8), 8) == 8
    waker.close()
    zoo.train(steps=3, first=4)
    zoo.finish()


main()
