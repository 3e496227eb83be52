"""A lock is held while a task that needs it is awaited."""

# /// zoo
# expect = "hang"
# causes = ["thread-deadlock", "abandoned-wait"]
# culprit = ["checkpoint", "serialise"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import zoo

state = threading.RLock()
pool = ThreadPoolExecutor(2)


def serialise():
    with state:
        return 1


def checkpoint():
    with state:
        zoo.say_hang()
        return pool.submit(serialise).result()


def main():
    zoo.warm_up()
    pool.submit(int).result()
    checkpoint()


main()
