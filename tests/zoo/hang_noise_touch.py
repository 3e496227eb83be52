"""A thread touches a heartbeat file twice a second while two threads are in a deadlock."""

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
import time

import zoo

model, disk = threading.Lock(), threading.Lock()
meet = threading.Barrier(2)


def beat(path):
    while True:
        path.write_text(str(time.time()))
        time.sleep(0.5)


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
    threading.Thread(target=beat, args=(zoo.directory() / "heartbeat",), name="heartbeat", daemon=True).start()
    zoo.warm_up()
    threading.Thread(target=log_metrics, name="logger").start()
    zoo.say_hang()
    save()


main()
