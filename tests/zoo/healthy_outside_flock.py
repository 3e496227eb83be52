"""A file lock that a process outside the tree holds and gives back."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "0.6*S + 3"
# needs = []
# stdin = "null"
# outside = ["wake", "waker"]
# ///

from __future__ import annotations

import fcntl

import zoo

zoo.train(steps=3)
path = zoo.directory() / "shared.lock"
waker = zoo.ask_waker("flock", path)
with path.open("a+") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
zoo.train(steps=3, first=4)
zoo.finish()
