"""A POSIX record lock that a live process outside the tree holds."""

# /// zoo
# expect = "hang"
# causes = ["lock-held-elsewhere"]
# culprit = ["index.lock", "lockf"]
# provable = false
# needs = []
# stdin = "null"
# cure = "environment"
# timeouts = "stall"
# outside = ["fcntl", "index.lock"]
# ///

from __future__ import annotations

import fcntl

import zoo


def main():
    zoo.warm_up()
    with zoo.outside("fcntl", "index.lock").open("r+") as file:
        zoo.say_hang()
        fcntl.lockf(file, fcntl.LOCK_EX)
    zoo.finish()


main()
