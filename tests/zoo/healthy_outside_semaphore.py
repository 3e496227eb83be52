"""A semaphore in shared memory with a name, which a process outside the tree opens only to raise it."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "0.6*S + 3"
# needs = []
# stdin = "null"
# outside = ["wake", "waker"]
# ///

from __future__ import annotations

import _multiprocessing
import os

import zoo

zoo.train(steps=3)
name = f"/zoo-{os.getpid()}"
semaphore = _multiprocessing.SemLock(1, 0, 1, name, False)
waker = zoo.ask_waker("post", name)
try:
    semaphore.acquire()
finally:
    _multiprocessing.sem_unlink(name)
zoo.train(steps=3, first=4)
zoo.finish()
