"""os.fork while a thread holds a plain lock; the child asks for it."""

# /// zoo
# expect = "hang"
# causes = ["fork-deadlock", "stuck-worker"]
# culprit = ["emit"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import os
import threading
import time

import zoo

guard = threading.Lock()
held = threading.Event()


def emit(text):
    guard.acquire()
    try:
        print(text, flush=True)
    finally:
        guard.release()


def slow():
    with guard:
        held.set()
        time.sleep(2)


def main():
    zoo.warm_up()
    threading.Thread(target=slow).start()
    held.wait()
    pid = os.fork()
    if pid == 0:
        zoo.say_hang()
        emit("child")
        os._exit(0)
    os.waitpid(pid, 0)


main()
