"""A signal handler takes a lock that the interrupted code holds."""

# /// zoo
# expect = "hang"
# causes = ["thread-deadlock"]
# culprit = ["dump_state", "update"]
# provable = false  # another SIGUSR1 from anywhere calls the handler again
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import os
import signal
import threading

import zoo

lock = threading.Lock()


def dump_state(_signal, _frame):
    with lock:
        print("state")


def update():
    with lock:
        zoo.say_hang()
        os.kill(os.getpid(), signal.SIGUSR1)
        zoo.compute(0.1)


def main():
    signal.signal(signal.SIGUSR1, dump_state)
    zoo.warm_up()
    update()


main()
