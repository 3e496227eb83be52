"""A read from a socket pair of its own ends by the time-out of that socket (SO_RCVTIMEO), which no file of /proc shows."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "0.6*S + 3"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import contextlib
import socket
import struct

import zoo


def main():
    zoo.train(steps=3)
    ours, theirs = socket.socketpair()
    seconds = 0.6 * zoo.stall()
    timeout = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
    with theirs, contextlib.suppress(BlockingIOError):
        ours.recv(1)
    zoo.train(steps=3, first=4)
    zoo.finish()


main()
