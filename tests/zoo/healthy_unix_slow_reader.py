"""A child takes rows from a socketpair at a limited rate and sleeps between them; only the parent, which sends, waits at it."""

# /// zoo
# expect = "healthy"
# lives_by = "wakes at a UNIX socket"
# seconds = "3*S + 3"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import hashlib
import os
import socket
import time

import zoo


def take(end):
    digest, row = hashlib.sha256(), bytearray(4000)
    while end.recv_into(row):
        digest.update(row)
        time.sleep(0.03)


def main():
    zoo.train(steps=3)
    here, there = socket.socketpair()
    child = os.fork()
    if child == 0:
        here.close()
        take(there)
        os._exit(0)
    there.close()
    here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
    stop = time.monotonic() + 3 * zoo.stall()
    while time.monotonic() < stop:
        here.sendall(bytes(8000))
    here.close()
    os.waitpid(child, 0)
    zoo.finish()


main()
