"""datasets.map forks two workers while a thread of the parent holds the lock of a shared counter."""

# /// zoo
# expect = "hang"
# causes = ["fork-deadlock", "stuck-worker"]
# culprit = ["tokenize", "count_tokens"]
# provable = true
# needs = ["datasets"]
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import os
import threading
import time

os.environ["HF_HUB_OFFLINE"] = "1"

import datasets

import zoo

lock = threading.Lock()
holding = threading.Event()
tokens = 0


def count_tokens(number, hold_s=0.0):
    global tokens
    with lock:
        if hold_s:
            holding.set()
            time.sleep(hold_s)
        tokens += number


def tokenize(row):
    if row["id"] == 0:
        zoo.say_hang()
    count_tokens(len(row["text"].split()))
    return {"length": len(row["text"])}


def main():
    zoo.warm_up()
    rows = datasets.Dataset.from_dict({"id": list(range(200)), "text": ["a b c"] * 200})
    threading.Thread(target=count_tokens, args=(0, 3.0), daemon=True).start()
    holding.wait()
    rows.map(tokenize, num_proc=2, new_fingerprint="zoo")


main()
