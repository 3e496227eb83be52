"""A thread takes one of two locks, fails to get the other in time, steps back and tries again."""

# /// zoo
# expect = "hang"
# causes = ["poll-loop"]
# culprit = ["step"]
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

weights, optimizer = threading.Lock(), threading.Lock()


def step():
    while True:
        with weights:
            time.sleep(0.02)
            if optimizer.acquire(timeout=0.1):
                optimizer.release()
                return


def main():
    zoo.warm_up()
    # Whoever took it has ended without letting go.
    optimizer.acquire()
    thread = threading.Thread(target=step)
    thread.start()
    zoo.say_hang()
    thread.join()


main()
