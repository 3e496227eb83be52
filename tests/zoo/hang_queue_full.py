"""A bounded queue whose consumer has failed."""

# /// zoo
# expect = "hang"
# causes = ["lost-worker", "abandoned-wait"]
# culprit = ["produce"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import multiprocessing as mp

import zoo


def consume(queue):
    queue.get()
    zoo.say_hang()
    raise RuntimeError("no")


def produce(queue):
    for i in range(50):
        queue.put(i)


def main():
    zoo.warm_up()
    c = mp.get_context("fork")
    queue = c.Queue(2)
    c.Process(target=consume, args=(queue,)).start()
    produce(queue)


main()
