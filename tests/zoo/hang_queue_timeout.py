"""A queue is asked with a timeout, again and again; the thread that should fill it has failed."""

# /// zoo
# expect = "hang"
# causes = ["poll-loop", "abandoned-wait"]
# culprit = ["next_batch"]
# provable = false
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import queue
import threading

import zoo

batches = queue.Queue()


def fill():
    for number in range(3):
        batches.put(number)
    zoo.say_hang()
    raise ValueError("row 3 is not valid UTF-8")


def next_batch():
    while True:
        try:
            return batches.get(timeout=0.5)
        except queue.Empty:
            continue


def main():
    zoo.warm_up()
    threading.Thread(target=fill).start()
    for _ in range(10):
        next_batch()


main()
