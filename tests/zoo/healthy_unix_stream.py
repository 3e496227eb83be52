"""Somebody outside the tree sends 80 kB/s over a UNIX socket; the job takes it by recv, which nobody counts, and says nothing."""

# /// zoo
# expect = "healthy"
# lives_by = "wakes at a UNIX socket"
# seconds = "3*S + 3"
# needs = []
# stdin = "null"
# outside = ["wake", "waker"]
# ///

from __future__ import annotations

import hashlib

import zoo

zoo.train(steps=3)
server = zoo.ask_waker("stream", after_stalls=3)
digest = hashlib.sha256()
while rows := server.recv(65536):
    digest.update(rows)
zoo.train(steps=3, first=4)
zoo.finish()
