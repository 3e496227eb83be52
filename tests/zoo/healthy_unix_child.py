"""A child feeds an event loop of the main process over a socketpair, 40 kB/s in small messages; nobody says anything."""

# /// zoo
# expect = "healthy"
# lives_by = "wakes at a UNIX socket"
# seconds = "3*S + 3"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import time

import zoo


def send(end, seconds):
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        end.sendall(bytes(2000))
        time.sleep(0.05)


async def take(end):
    reader, writer = await asyncio.open_unix_connection(sock=end)
    digest = hashlib.sha256()
    while rows := await reader.read(65536):
        digest.update(rows)
    writer.close()


def main():
    zoo.train(steps=3)
    here, there = socket.socketpair()
    child = os.fork()
    if child == 0:
        here.close()
        send(there, 3 * zoo.stall())
        os._exit(0)
    there.close()
    asyncio.run(take(here))
    os.waitpid(child, 0)
    zoo.finish()


main()
