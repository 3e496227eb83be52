"""A process was killed while it held a multiprocessing lock."""

# /// zoo
# expect = "hang"
# causes = ["lost-worker", "abandoned-wait"]
# culprit = ["write_shard", "main", "SemLock"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import multiprocessing
import os
import signal

import zoo


def write_shard(lock):
    lock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)


def main():
    zoo.warm_up()
    context = multiprocessing.get_context("fork")
    lock = context.Lock()
    worker = context.Process(target=write_shard, args=(lock,))
    worker.start()
    worker.join()
    zoo.say_hang()
    with lock:
        print("index written")


main()
