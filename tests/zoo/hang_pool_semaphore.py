"""Tasks of a thread pool wait for places that only later tasks would free."""

# /// zoo
# expect = "hang"
# causes = ["abandoned-wait", "thread-deadlock"]
# culprit = ["take"]
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

places = threading.Semaphore(1)


def take(n):
    places.acquire()


def give(n):
    places.release()


def main():
    zoo.warm_up()
    with ThreadPoolExecutor(2) as pool:
        tasks = [pool.submit(take, n) for n in range(3)] + [pool.submit(give, n) for n in range(3)]
        zoo.say_hang()
        for task in tasks:
            task.result()


main()
