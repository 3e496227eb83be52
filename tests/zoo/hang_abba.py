"""Two threads take two locks in opposite order."""

# /// zoo
# expect = "hang"
# causes = ["thread-deadlock"]
# culprit = ["save", "log_metrics"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import threading

import zoo

model, disk = threading.Lock(), threading.Lock()
meet = threading.Barrier(2)


def save():
    with model:
        meet.wait()
        with disk:
            print("saved")


def log_metrics():
    with disk:
        meet.wait()
        with model:
            print("logged")


def main():
    zoo.warm_up()
    logger = threading.Thread(target=log_metrics, name="logger")
    logger.start()
    zoo.say_hang()
    save()


main()
