"""Rank 1 polls for a file that rank 0 should have written; there is no rank 0."""

# /// zoo
# expect = "hang"
# causes = ["poll-loop"]
# culprit = ["wait_for_main_rank", "rank0.done"]
# provable = false
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import time

import zoo


def wait_for_main_rank(path):
    while not path.exists():
        time.sleep(0.5)


def main():
    zoo.warm_up()
    zoo.say_hang()
    wait_for_main_rank(zoo.directory() / "rank0.done")
    zoo.finish()


main()
