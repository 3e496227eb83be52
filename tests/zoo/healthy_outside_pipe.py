"""The write end of a pipe made here went to a process outside the tree, and was closed here."""

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
reader, writer = os.pipe()
waker = zoo.ask_waker("write", descriptors=(writer,))
os.close(writer)
assert len(os.read(reader, 8)) == 8
zoo.train(steps=3, first=4)
zoo.finish()
