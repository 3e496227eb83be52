"""A tqdm bar in mid-way with its monitor thread, and a second thread that redraws it; the loop waits for a dead worker's result."""

# /// zoo
# expect = "hang"
# causes = ["lost-worker"]
# culprit = ["tokenize", "Pool"]
# provable = false  # the thread that redraws goes on by the clock, and what the bar does is not in its text
# needs = ["tqdm"]
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

import tqdm

import zoo


def tokenize(shard):
    zoo.compute(0.05)
    if shard == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    return shard


def redraw(bar):
    while True:
        time.sleep(1)
        bar.refresh()


def main():
    zoo.warm_up(steps=2)
    with multiprocessing.get_context("fork").Pool(2) as pool, tqdm.tqdm(total=100, desc="Tokenizing") as bar:
        threading.Thread(target=redraw, args=(bar,), daemon=True).start()
        for done in pool.imap(tokenize, range(100)):
            bar.update()
            if done == 19:
                zoo.say_hang()


main()
