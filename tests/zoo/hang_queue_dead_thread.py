"""queue.get: the producing thread died of an exception."""

# /// zoo
# expect = "hang"
# causes = ["abandoned-wait"]
# culprit = ["produce", "main"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import queue
import threading

import zoo

batches: queue.Queue[int] = queue.Queue(4)


def produce():
    for index in range(100):
        if index == 6:
            zoo.say_hang()
            raise ValueError("row 6 is not valid JSON")
        batches.put(index)


def main():
    zoo.warm_up()
    threading.Thread(target=produce, daemon=True).start()
    while True:
        print("batch", batches.get(), flush=True)


main()
