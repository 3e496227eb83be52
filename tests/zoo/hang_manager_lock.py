"""A lock of a manager whose holder was killed."""

# /// zoo
# expect = "hang"
# causes = ["lost-worker", "abandoned-wait", "stuck-worker"]
# culprit = ["append"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import multiprocessing as mp
import os

import zoo


def take(lock):
    lock.acquire()
    os._exit(1)


def append(lock):
    with lock:
        pass


def main():
    zoo.warm_up()
    c = mp.get_context("fork")
    manager = c.Manager()
    lock = manager.Lock()
    p = c.Process(target=take, args=(lock,))
    p.start()
    p.join()
    zoo.say_hang()
    append(lock)


main()
