"""The interpreter joins a thread pool whose worker waits for ever."""

# /// zoo
# expect = "hang"
# causes = ["exit-stall"]
# culprit = ["flush_metrics", "_python_exit"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import zoo

server_is_up = threading.Event()


def flush_metrics():
    server_is_up.wait()


def main():
    zoo.warm_up(total=8)
    ThreadPoolExecutor(2).submit(flush_metrics)
    zoo.say_hang()


main()
