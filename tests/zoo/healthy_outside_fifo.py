"""A message comes through a FIFO that another job opens only then; this one has both ends open meanwhile."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "0.6*S + 3"
# needs = []
# stdin = "null"
# outside = ["wake", "waker"]
# ///

from __future__ import annotations

import os

import zoo

zoo.train(steps=3)
path = zoo.directory() / "orders"
os.mkfifo(path)
# Open for reading and writing, as daemons do, so that no end of file comes in between.
with open(os.open(path, os.O_RDWR), "rb", buffering=0) as orders:
    waker = zoo.ask_waker("fifo", path)
    assert orders.read(7) == b"answer\n"
zoo.train(steps=3, first=4)
zoo.finish()
