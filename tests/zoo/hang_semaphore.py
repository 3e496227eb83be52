"""A bounded number of uploads; failed ones do not give their place back."""

# /// zoo
# expect = "hang"
# causes = ["abandoned-wait", "thread-deadlock"]
# culprit = ["upload"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import threading

import zoo

places = threading.Semaphore(2)


def upload(step):
    places.acquire()
    if step % 2:
        raise ConnectionError("reset by peer")
    places.release()


def main():
    zoo.warm_up()
    for step in range(1, 4):
        try:
            upload(step)
        except ConnectionError as error:
            print("ignored:", error, flush=True)
    zoo.say_hang()
    upload(5)


main()
