"""An event that only a failed callback would have set."""

# /// zoo
# expect = "hang"
# causes = ["abandoned-wait"]
# culprit = ["wait_for_save"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import threading

import zoo

saved = threading.Event()


def save():
    raise OSError(28, "No space left on device")


def wait_for_save():
    zoo.say_hang()
    saved.wait()


def main():
    zoo.warm_up()
    threading.Thread(target=save, daemon=True).start()
    wait_for_save()


main()
