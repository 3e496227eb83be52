"""flock on a cache that a stuck child of the same job holds."""

# /// zoo
# expect = "hang"
# causes = ["stuck-worker", "lock-held-elsewhere", "abandoned-wait"]
# culprit = ["shard.lock", "build", "flock"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import fcntl
import multiprocessing
import threading

import zoo


def build(path, connection):
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        connection.send("locked")
        threading.Event().wait()


def main():
    zoo.warm_up()
    path = zoo.directory() / "shard.lock"
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    context.Process(target=build, args=(path, sender), daemon=True).start()
    receiver.recv()
    with path.open("w") as file:
        zoo.say_hang()
        fcntl.flock(file, fcntl.LOCK_EX)


main()
