"""The main thread joins one that sleeps until a file of another rank is there."""

# /// zoo
# expect = "hang"
# causes = ["poll-loop"]
# culprit = ["wait_for_rank_0"]
# provable = false
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import threading
import time

import zoo


def wait_for_rank_0():
    marker = zoo.directory() / "rank0.done"
    while not marker.exists():
        time.sleep(0.2)


def main():
    zoo.warm_up()
    thread = threading.Thread(target=wait_for_rank_0)
    thread.start()
    zoo.say_hang()
    thread.join()


main()
