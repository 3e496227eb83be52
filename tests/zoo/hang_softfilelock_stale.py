"""A SoftFileLock whose empty file was left by a killed process of an older version."""

# /// zoo
# expect = "hang"
# causes = ["stale-lock-file"]
# culprit = ["dataset.lock", "SoftFileLock"]
# provable = true
# needs = ["filelock"]
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import filelock

import zoo


def main():
    zoo.warm_up()
    path = zoo.directory() / "dataset.lock"
    path.touch()
    zoo.say_hang()
    with filelock.SoftFileLock(str(path)):
        zoo.finish()


main()
