"""An event of multiprocessing that another process sets when its time has come."""

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


def prepare(ready):
    time.sleep(0.6 * zoo.stall())
    ready.set()


def main():
    zoo.train(steps=3)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    helper = context.Process(target=prepare, args=(ready,))
    helper.start()
    ready.wait()
    helper.join()
    zoo.train(steps=3, first=4)
    zoo.finish()


main()
