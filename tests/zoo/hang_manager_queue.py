"""A queue of a multiprocessing manager whose producer has died: the manager itself waits for an item on behalf of its client."""

# /// zoo
# expect = "hang"
# causes = ["lost-worker"]
# culprit = ["PID", "main"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import multiprocessing
import os

import zoo


def produce(rows):
    os._exit(1)


def main():
    zoo.warm_up()
    context = multiprocessing.get_context("fork")
    manager = context.Manager()
    rows = manager.Queue()
    producer = context.Process(target=produce, args=(rows,))
    producer.start()
    zoo.say_hang()
    rows.get()


main()
