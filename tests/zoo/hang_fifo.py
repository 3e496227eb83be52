"""A FIFO is opened for reading; its writer was never started."""

# /// zoo
# expect = "hang"
# causes = ["abandoned-wait", "pipe-deadlock", "lost-worker"]
# culprit = ["frames.fifo"]
# provable = false
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import os

import zoo


def main():
    zoo.warm_up()
    path = zoo.directory() / "frames.fifo"
    os.mkfifo(path)
    zoo.say_hang()
    with path.open("rb") as fifo:
        print(len(fifo.read()))


main()
