"""Three processes in a ring of pipes: each reads first what the one before it would write."""

# /// zoo
# expect = "hang"
# causes = ["stuck-worker", "pipe-deadlock"]
# culprit = ["pass_on"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import os

import zoo


def pass_on(source, sink):
    os.write(sink, os.read(source, 1))


def main():
    zoo.warm_up()
    ring = [os.pipe() for _ in range(3)]
    zoo.say_hang()
    for place in range(3):
        if place == 2 or os.fork() == 0:
            source, sink = ring[place - 1][0], ring[place][1]
            for end in (end for pipe in ring for end in pipe if end not in (source, sink)):
                os.close(end)
            pass_on(source, sink)
            break


main()
