"""A worker died; its parent keeps the write end of its pipe open too and never sees the end."""

# /// zoo
# expect = "hang"
# causes = ["lost-worker", "pipe-deadlock"]
# culprit = ["collect", "pipe"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import multiprocessing
import os

import zoo


def work(sender):
    sender.send([1, 2, 3])
    zoo.say_hang()
    os._exit(9)


def collect(receiver):
    while True:
        print(receiver.recv(), flush=True)


def main():
    zoo.warm_up()
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    context.Process(target=work, args=(sender,)).start()
    collect(receiver)


main()
