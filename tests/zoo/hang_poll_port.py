"""A client polls the port of a server that never opens it (vllm#17676)."""

# /// zoo
# expect = "hang"
# causes = ["poll-loop", "network-stall"]
# culprit = ["wait_for_server"]
# provable = false
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import socket
import time

import zoo


def wait_for_server(port):
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1)
        except OSError:
            time.sleep(0.5)


def main():
    zoo.warm_up()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refuses, and nobody else gets it
        zoo.say_hang()
        wait_for_server(taken.getsockname()[1])


main()
