"""A child with a limited rate sends 60 kB/s through a pipe; the main process keeps a digest of it and says nothing."""

# /// zoo
# expect = "healthy"
# lives_by = "reads from a pipe"
# seconds = "3*S + 3"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import hashlib
import os
import time

import zoo


def send(descriptor, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        os.write(descriptor, bytes(30_000))
        time.sleep(0.5)


def main():
    zoo.train(steps=3)
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(here)
        send(there, 3 * zoo.stall())
        os._exit(0)
    os.close(there)
    digest = hashlib.sha256()
    while rows := os.read(here, 65536):
        digest.update(rows)
    os.waitpid(child, 0)
    zoo.finish()


main()
