"""A reward server waits between the requests of a trainer of the same job, which computes between them."""

# /// zoo
# expect = "healthy"
# lives_by = "cpu"
# seconds = "3*S"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import multiprocessing
import socket
import time

import zoo


def serve(listener):
    while True:
        client, _ = listener.accept()
        with client:
            client.sendall(str(len(client.recv(4096))).encode())


def main():
    listener = socket.create_server(("127.0.0.1", 0))
    server = multiprocessing.get_context("fork").Process(target=serve, args=(listener,), daemon=True)
    server.start()
    end = time.monotonic() + 3 * zoo.stall()
    while time.monotonic() < end:
        zoo.compute(0.6 * zoo.stall())
        with socket.create_connection(listener.getsockname()) as client:
            client.sendall(b"prompt")
            assert client.recv(10) == b"6"
    zoo.finish()


main()
