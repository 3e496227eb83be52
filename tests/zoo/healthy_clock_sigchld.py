"""A handler of SIGCHLD sets what the main thread waits for when a sleeping child has ended."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "0.6*S + 3"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import signal
import subprocess
import threading

import zoo

ended = threading.Event()


def main():
    zoo.train(steps=3)
    signal.signal(signal.SIGCHLD, lambda *_: ended.set())
    child = subprocess.Popen(["sleep", str(0.6 * zoo.stall())])
    ended.wait()
    child.wait()
    zoo.train(steps=3, first=4)
    zoo.finish()


main()
