"""A log handler with a lock of its own is in use by a thread while worker processes are forked."""

# /// zoo
# expect = "hang"
# causes = ["fork-deadlock", "stuck-worker"]
# culprit = ["write_row", "tokenize"]
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

lock = threading.Lock()
holding = threading.Event()


def write_row(text):
    with lock:
        if threading.current_thread() is not threading.main_thread():
            holding.set()
            time.sleep(1)  # a slow disk
        print(text, flush=True)


def tokenize(shard):
    zoo.say_hang()
    write_row(f"shard {shard}")
    return shard


def main():
    zoo.warm_up()
    threading.Thread(target=write_row, args=("checkpoint written",)).start()
    holding.wait()
    context = multiprocessing.get_context("fork")
    worker = context.Process(target=tokenize, args=(1,))
    worker.start()
    worker.join()


main()
