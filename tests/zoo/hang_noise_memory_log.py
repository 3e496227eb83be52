"""A thread logs memory use every second while a forked worker is stuck."""

# /// zoo
# expect = "hang"
# causes = ["stuck-worker", "fork-deadlock", "abandoned-wait"]
# culprit = ["load_row"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import multiprocessing
import threading
import time

import zoo


def log_memory():
    while True:
        pages = int(open("/proc/self/statm").read().split()[1])
        print(f"[{time.strftime('%H:%M:%S')}] memory {pages * 4096 / 1e6:.1f} MB", flush=True)
        time.sleep(1)


def load_row(index):
    if index == 3:
        zoo.say_hang()
        threading.Event().wait()
    return index


def main():
    zoo.warm_up()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        threading.Thread(target=log_memory, daemon=True).start()
        print(pool.map(load_row, range(8), chunksize=1))


main()
