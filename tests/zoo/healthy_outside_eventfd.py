"""An eventfd that a process outside the tree got over a socket is what everybody waits for."""

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
event = os.eventfd(0)
waker = zoo.ask_waker("write", descriptors=(event,))
assert os.eventfd_read(event) == 1
zoo.train(steps=3, first=4)
zoo.finish()
