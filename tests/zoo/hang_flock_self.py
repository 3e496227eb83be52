"""A program locks a file, and a library of its own locks it once more through another descriptor."""

# /// zoo
# expect = "hang"
# causes = ["thread-deadlock", "stuck-worker"]
# culprit = ["save_index"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import fcntl

import zoo


def save_index(path):
    with path.open("a") as index:
        fcntl.flock(index, fcntl.LOCK_EX)


def main():
    zoo.warm_up()
    path = zoo.directory() / "index.lock"
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        zoo.say_hang()
        save_index(path)


main()
