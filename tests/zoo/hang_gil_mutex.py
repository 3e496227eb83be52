"""A mutex and the interpreter lock in opposite order."""

# /// zoo
# expect = "hang"
# causes = ["thread-deadlock"]
# culprit = ["left", "right"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import ctypes
import threading
import time

import zoo

free, kept = ctypes.CDLL(None), ctypes.PyDLL(None)
mutex = ctypes.create_string_buffer(64)
has = threading.Event()


def left():
    free.pthread_mutex_lock(mutex)
    has.set()
    time.sleep(1)
    free.pthread_mutex_unlock(mutex)


def right():
    kept.pthread_mutex_lock(mutex)


def main():
    zoo.warm_up()
    threading.Thread(target=left, daemon=True).start()
    has.wait()
    zoo.say_hang()
    right()


main()
