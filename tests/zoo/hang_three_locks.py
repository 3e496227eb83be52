"""Three threads in a circle of three locks, while a fourth sleeps and looks."""

# /// zoo
# expect = "hang"
# causes = ["thread-deadlock"]
# culprit = ["stage"]
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

locks = [threading.Lock() for _ in range(3)]
meet = threading.Barrier(3)


def stage(number):
    with locks[number]:
        meet.wait()
        if number == 0:
            zoo.say_hang()
        with locks[(number + 1) % 3]:
            print("stage", number)


def look():
    while True:
        time.sleep(1)


def main():
    zoo.warm_up()
    threading.Thread(target=look, name="watcher", daemon=True).start()
    stages = [threading.Thread(target=stage, args=(number,)) for number in range(3)]
    for thread in stages:
        thread.start()
    for thread in stages:
        thread.join()


main()
