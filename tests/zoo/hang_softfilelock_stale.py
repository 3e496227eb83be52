"""A SoftFileLock whose empty file was left by a killed process of an older version."""

# /// zoo
# expect = "hang"
# causes = ["stale-lock-file"]
# culprit = ["dataset.lock", "SoftFileLock"]
# provable = false  # whoever removes the file ends it
# needs = ["filelock"]
# stdin = "null"
# cure = "quarantine"
# timeouts = "stall"
# ///

from __future__ import annotations

import filelock

import zoo


def main():
    zoo.warm_up()
    path = zoo.directory() / "dataset.lock"
    if zoo.is_first():
        path.touch()
    zoo.say_hang()
    with filelock.SoftFileLock(str(path)):
        zoo.finish()


main()
