"""filelock waits for a lock that a live process outside the tree holds."""

# /// zoo
# expect = "hang"
# causes = ["lock-held-elsewhere"]
# culprit = ["model.lock"]
# provable = false
# needs = ["filelock"]
# stdin = "null"
# cure = "environment"
# timeouts = "stall"
# outside = ["flock", "model.lock"]
# ///

from __future__ import annotations

import filelock

import zoo


def main():
    zoo.warm_up()
    path = zoo.outside("flock", "model.lock")
    zoo.say_hang()
    with filelock.FileLock(str(path)):
        zoo.finish()


main()
