"""A saver waits until its output directory is there; the mount that should bring it is missing."""

# /// zoo
# expect = "hang"
# causes = ["poll-loop"]
# culprit = ["wait_for_mount", "checkpoints"]
# provable = false
# needs = []
# stdin = "null"
# cure = "mkdir"
# timeouts = "stall"
# ///

from __future__ import annotations

import time

import zoo


def wait_for_mount(path):
    while not path.is_dir():
        time.sleep(0.3)


def main():
    zoo.warm_up()
    zoo.say_hang()
    wait_for_mount(zoo.directory() / "checkpoints")
    zoo.finish()


main()
