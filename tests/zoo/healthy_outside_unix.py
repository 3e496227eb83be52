"""A server outside the tree answers late over a UNIX socket."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "0.6*S + 3"
# needs = []
# stdin = "null"
# outside = ["wake", "waker"]
# ///

from __future__ import annotations

import zoo

zoo.train(steps=3)
waker = zoo.ask_waker("answer")
assert waker.recv(100) == b"answer\n"
zoo.train(steps=3, first=4)
zoo.finish()
