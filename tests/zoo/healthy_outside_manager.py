"""A queue of a multiprocessing manager, to which a client on another machine would send: here a process outside the tree."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "0.6*S + 3"
# needs = []
# stdin = "null"
# outside = ["wake", "waker"]
# ///

from __future__ import annotations

import multiprocessing
import queue
from multiprocessing.managers import BaseManager

import zoo

orders: queue.Queue[str] = queue.Queue()


def main():
    zoo.train(steps=3)
    BaseManager.register("orders", callable=lambda: orders)
    manager = BaseManager(("127.0.0.1", 0), b"zoo", ctx=multiprocessing.get_context("fork"))
    manager.start()
    waker = zoo.ask_waker("manager", manager.address[1])
    assert manager.orders().get() == "answer"
    waker.close()
    manager.shutdown()
    zoo.train(steps=3, first=4)
    zoo.finish()


main()
