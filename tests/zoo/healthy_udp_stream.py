"""A child sends 24 kB/s in UDP datagrams, whose bytes nobody counts for a process; the main process keeps a digest in silence."""

# /// zoo
# expect = "healthy"
# lives_by = "wakes at a UDP socket"
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


def send(address, seconds):
    stop = time.monotonic() + seconds
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        while time.monotonic() < stop:
            out.sendto(bytes(1200), address)
            time.sleep(0.05)
        out.sendto(b"", address)


def main():
    zoo.train(steps=3)
    rows = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    rows.bind(("127.0.0.1", 0))
    child = os.fork()
    if child == 0:
        address = rows.getsockname()
        rows.close()
        send(address, 3 * zoo.stall())
        os._exit(0)
    digest = hashlib.sha256()
    while row := rows.recv(65536):
        digest.update(row)
    os.waitpid(child, 0)
    zoo.finish()


main()
