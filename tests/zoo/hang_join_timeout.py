"""A saving thread is joined with a timeout while it lives; it waits for an event that nobody sets."""

# /// zoo
# expect = "hang"
# causes = ["abandoned-wait"]
# culprit = ["save"]
# provable = false
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import threading

import zoo

copied = threading.Event()


def save():
    zoo.say_hang()
    copied.wait()


def main():
    zoo.warm_up()
    thread = threading.Thread(target=save, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(timeout=1)


main()
