"""Another client of a manager looks at its clock five times a second, and gives the lock back when it is time."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "0.6*S + 3"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import multiprocessing
import time

import zoo


def borrow(lock, taken):
    end = time.monotonic() + 0.6 * zoo.stall()
    with lock:
        taken.set()
        while time.monotonic() < end:
            time.sleep(0.2)


def main():
    zoo.train(steps=3)
    context = multiprocessing.get_context("fork")
    manager = context.Manager()
    lock, taken = manager.Lock(), context.Event()
    helper = context.Process(target=borrow, args=(lock, taken))
    helper.start()
    taken.wait()
    with lock:
        zoo.train(steps=3, first=4)
    helper.join()
    zoo.finish()


main()
