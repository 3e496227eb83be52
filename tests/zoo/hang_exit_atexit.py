"""An atexit hook joins a logger that waits for its stop."""

# /// zoo
# expect = "hang"
# causes = ["exit-stall"]
# culprit = ["finish_run"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import atexit
import threading

import zoo

stop = threading.Event()


def send():
    stop.wait()


def finish_run():
    sender.join()


sender = threading.Thread(target=send, name="sender", daemon=True)


def main():
    zoo.warm_up(total=8)
    sender.start()
    atexit.register(finish_run)
    print("training done", flush=True)
    zoo.say_hang()


main()
