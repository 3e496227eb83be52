"""A condition that was notified before the wait began."""

# /// zoo
# expect = "hang"
# causes = ["abandoned-wait"]
# culprit = ["wait_for_weights"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import threading

import zoo

ready = threading.Condition()


def load():
    with ready:
        ready.notify_all()


def wait_for_weights():
    with ready:
        zoo.say_hang()
        ready.wait()


def main():
    zoo.warm_up()
    loader = threading.Thread(target=load)
    loader.start()
    loader.join()
    wait_for_weights()


main()
