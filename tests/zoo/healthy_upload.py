"""An upload at the pace of the receiver, 200 kB/s."""

# /// zoo
# expect = "healthy"
# lives_by = "socket bytes"
# seconds = "3*S"
# needs = []
# stdin = "null"
# outside = ["serve", "sink", "port"]
# ///

from __future__ import annotations

import socket

import zoo

print("uploading", flush=True)
with socket.create_connection(("127.0.0.1", zoo.port("sink"))) as server:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    server.sendall(bytes(int(200_000 * 3 * zoo.stall())))
    server.shutdown(socket.SHUT_WR)
    server.recv(1)
zoo.finish()
