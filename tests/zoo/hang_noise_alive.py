"""A thread prints "alive N s" while the main thread waits for a queue that nobody fills."""

# /// zoo
# expect = "hang"
# causes = ["abandoned-wait"]
# culprit = ["next_batch"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import queue
import threading
import time

import zoo

batches: queue.Queue[int] = queue.Queue()


def report():
    start = time.monotonic()
    while True:
        time.sleep(1)
        print(f"alive {time.monotonic() - start:.0f} s", flush=True)


def next_batch():
    zoo.say_hang()
    return batches.get()


def main():
    threading.Thread(target=report, name="reporter", daemon=True).start()
    zoo.warm_up()
    next_batch()


main()
