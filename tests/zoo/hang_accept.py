"""A rendezvous server waits for a worker that failed before it connected."""

# /// zoo
# expect = "hang"
# causes = ["lost-worker", "network-stall", "abandoned-wait"]
# culprit = ["gather_workers", "accept"]
# provable = false
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import socket
import subprocess
import sys

import zoo


def gather_workers(listener, number):
    return [listener.accept() for _ in range(number)]


def main():
    zoo.warm_up()
    listener = socket.create_server(("127.0.0.1", 0))
    worker = subprocess.Popen([sys.executable, "-S", "-c", "raise SystemExit('no such device')"])
    worker.wait()
    zoo.say_hang()
    gather_workers(listener, 1)


main()
