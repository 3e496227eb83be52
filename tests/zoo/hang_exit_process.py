"""At exit multiprocessing joins a child that waits."""

# /// zoo
# expect = "hang"
# causes = ["exit-stall", "stuck-worker"]
# culprit = ["listen"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import multiprocessing as mp
import threading

import zoo


def listen():
    threading.Event().wait()


def main():
    zoo.warm_up(total=8)
    mp.get_context("fork").Process(target=listen).start()
    print("training done", flush=True)
    zoo.say_hang()


main()
