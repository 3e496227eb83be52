"""A task of a thread pool waits for another task of the same full pool."""

# /// zoo
# expect = "hang"
# causes = ["abandoned-wait", "thread-deadlock"]
# culprit = ["save", "upload"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import zoo

pool = ThreadPoolExecutor(1)


def save(step):
    zoo.say_hang()
    return pool.submit(upload, step).result()


def upload(step):
    return step


def main():
    zoo.warm_up()
    print(pool.submit(save, 100).result())


main()
