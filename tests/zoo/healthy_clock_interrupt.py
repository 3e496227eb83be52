"""A child looks at its clock until the time is up, and interrupts the main thread, which waits for just that."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "0.6*S + 3"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import os
import signal
import threading
import time

import zoo


def interrupt(pid, seconds):
    for _ in range(int(seconds / 0.25)):
        time.sleep(0.25)
    os.kill(pid, signal.SIGINT)


def main():
    zoo.train(steps=3)
    main_pid = os.getpid()
    child = os.fork()
    if child == 0:
        interrupt(main_pid, 0.6 * zoo.stall())
        os._exit(0)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print("time is up, saving", flush=True)
    os.waitpid(child, 0)
    zoo.train(steps=3, first=4)
    zoo.finish()


main()
