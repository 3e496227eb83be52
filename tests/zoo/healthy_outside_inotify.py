"""The arrival of a file is awaited with inotify."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "0.6*S + 3"
# needs = []
# stdin = "null"
# outside = ["wake", "waker"]
# ///

from __future__ import annotations

import ctypes
import os

import zoo

zoo.train(steps=3)
libc = ctypes.CDLL(None)
watch = libc.inotify_init1(0)
assert libc.inotify_add_watch(watch, os.fsencode(zoo.directory()), 0x100) > 0  # IN_CREATE
waker = zoo.ask_waker("touch", zoo.directory() / "arrived")
assert os.read(watch, 4096)
zoo.train(steps=3, first=4)
zoo.finish()
