"""Two processes take two file locks in opposite order."""

# /// zoo
# expect = "hang"
# causes = ["stuck-worker", "thread-deadlock", "lock-held-elsewhere"]
# culprit = ["first", "second", "a.lock", "b.lock"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import fcntl
import multiprocessing as mp

import zoo

kept = []


def lock(path):
    file = open(path, "w")
    fcntl.flock(file, fcntl.LOCK_EX)
    kept.append(file)


def second(a, b, pipe):
    lock(b)
    pipe.send(1)
    pipe.recv()
    lock(a)


def first(a, b, pipe):
    lock(a)
    pipe.recv()
    pipe.send(1)
    zoo.say_hang()
    lock(b)


def main():
    zoo.warm_up()
    a, b = zoo.directory() / "a.lock", zoo.directory() / "b.lock"
    c = mp.get_context("fork")
    here, there = c.Pipe()
    c.Process(target=second, args=(a, b, there), daemon=True).start()
    first(a, b, here)


main()
