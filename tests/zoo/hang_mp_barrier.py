"""A barrier between processes of which one has died."""

# /// zoo
# expect = "hang"
# causes = ["lost-worker", "abandoned-wait"]
# culprit = ["meet", "main"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import multiprocessing as mp
import os

import zoo


def shard(barrier):
    os._exit(3)


def meet(barrier):
    barrier.wait()


def main():
    zoo.warm_up()
    c = mp.get_context("fork")
    barrier = c.Barrier(2)
    p = c.Process(target=shard, args=(barrier,))
    p.start()
    zoo.say_hang()
    meet(barrier)


main()
