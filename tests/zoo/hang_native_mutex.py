"""Native code without the GIL locks a mutex twice."""

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

import zoo

libc = ctypes.CDLL(None)


def flush(mutex):
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)


def main():
    zoo.warm_up()
    zoo.say_hang()
    flush(ctypes.create_string_buffer(64))


main()
