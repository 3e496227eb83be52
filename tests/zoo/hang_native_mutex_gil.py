"""Native code locks a mutex twice and holds the GIL: no other Python thread can run."""

# /// zoo
# expect = "hang"
# causes = ["thread-deadlock", "abandoned-wait"]
# culprit = ["pthread_mutex_lock", "lll_lock_wait", "flush"]
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

libc = ctypes.PyDLL(None)


def monitor():
    while True:
        time.sleep(0.5)


def flush(mutex):
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)


def main():
    threading.Thread(target=monitor, daemon=True).start()
    zoo.warm_up()
    zoo.say_hang()
    flush(ctypes.create_string_buffer(64))


main()
