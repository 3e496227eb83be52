"""A lock that is not reentrant is taken again by the same thread, in a callback."""

# /// zoo
# expect = "hang"
# causes = ["thread-deadlock"]
# culprit = ["on_save", "save"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import threading

import zoo

lock = threading.Lock()


def save(callback):
    with lock:
        callback()


def on_save():
    zoo.say_hang()
    with lock:
        print("counted")


def main():
    zoo.warm_up()
    save(on_save)


main()
