"""A forked worker wants a lock that a thread held at the fork."""

# /// zoo
# expect = "hang"
# causes = ["fork-deadlock", "stuck-worker"]
# culprit = ["read_cache"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import multiprocessing
import threading
import time

import zoo

cache_lock = threading.Lock()
holding = threading.Event()


def read_cache(name):
    with cache_lock:
        return name


def refresh():
    with cache_lock:
        holding.set()
        time.sleep(1)


def work(name):
    zoo.say_hang()
    return read_cache(name)


def main():
    zoo.warm_up()
    threading.Thread(target=refresh, daemon=True).start()
    holding.wait()
    with multiprocessing.get_context("fork").Pool(1) as pool:
        print(pool.apply(work, ("train",)))


main()
