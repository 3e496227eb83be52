"""A worker waits for a lock that its parent took by acquire, and the parent waits for the worker."""

# /// zoo
# expect = "hang"
# causes = ["stuck-worker"]
# culprit = ["tokenize"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import multiprocessing

import zoo


def tokenize(lock):
    with lock:
        zoo.compute(0.1)


def main():
    zoo.warm_up()
    context = multiprocessing.get_context("spawn")
    lock = context.Lock()
    lock.acquire()
    worker = context.Process(target=tokenize, args=(lock,))
    worker.start()
    zoo.say_hang()
    worker.join()


if __name__ == "__main__":
    main()
