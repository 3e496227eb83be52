"""The parent joins its worker before it has read the worker's results: the queue's feeder thread cannot write."""

# /// zoo
# expect = "hang"
# causes = ["pipe-deadlock", "exit-stall", "stuck-worker"]
# culprit = ["_feed", "_finalize_join", "tokenize", "pipe"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import multiprocessing

import zoo


def tokenize(queue):
    queue.put([1] * 1_000_000)


def main():
    zoo.warm_up()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=tokenize, args=(queue,))
    worker.start()
    zoo.say_hang()
    worker.join()
    print(len(queue.get()))


main()
