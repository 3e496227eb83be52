"""A worker waits for ever, and a watchdog of the job's own looks at its clock four times a second until it ends the worker."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "0.6*S + 3"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

import zoo


def watch(pid, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.25)
    os.kill(pid, signal.SIGKILL)


def main():
    zoo.train(steps=3)
    context = multiprocessing.get_context("fork")
    worker = context.Process(target=threading.Event().wait)
    worker.start()
    watchdog = context.Process(target=watch, args=(worker.pid, 0.6 * zoo.stall()))
    watchdog.start()
    worker.join()
    watchdog.join()
    zoo.train(steps=3, first=4)
    zoo.finish()


main()
