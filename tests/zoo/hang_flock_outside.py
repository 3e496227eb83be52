"""flock on a cache that a live process outside the tree holds."""

# /// zoo
# expect = "hang"
# causes = ["lock-held-elsewhere"]
# culprit = ["hub.lock", "flock"]
# provable = false
# needs = []
# stdin = "null"
# cure = "environment"
# timeouts = "stall"
# outside = ["flock", "hub.lock"]
# ///

from __future__ import annotations

import fcntl

import zoo


def main():
    zoo.warm_up()
    with zoo.outside("flock", "hub.lock").open() as file:
        zoo.say_hang()
        fcntl.flock(file, fcntl.LOCK_EX)
    zoo.finish()


main()
