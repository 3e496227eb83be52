"""A child that sends rows by UDP waits for an acknowledgement that was lost, and the main process for the next row."""

# /// zoo
# expect = "hang"
# causes = ["network-stall", "stuck-worker"]
# culprit = ["take", "send"]
# provable = false  # anybody may send a datagram
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

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
        zoo.say_hang()
        out.recv(100)


def take(rows):
    while rows.recv(65536):
        pass


def main():
    zoo.warm_up()
    rows = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    rows.bind(("127.0.0.1", 0))
    if os.fork() == 0:
        address = rows.getsockname()
        rows.close()
        send(address, 0.5 * zoo.stall())
        os._exit(0)
    take(rows)


main()
