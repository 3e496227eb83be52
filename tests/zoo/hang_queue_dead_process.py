"""A multiprocessing queue whose producing process died of an exception."""

# /// zoo
# expect = "hang"
# causes = ["lost-worker"]
# culprit = ["produce", "main"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import multiprocessing

import zoo


def produce(queue):
    for index in range(100):
        if index == 6:
            zoo.say_hang()
            raise ValueError("row 6 is not valid JSON")
        queue.put(index)


def main():
    zoo.warm_up()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    context.Process(target=produce, args=(queue,)).start()
    while True:
        print("batch", queue.get(), flush=True)


main()
