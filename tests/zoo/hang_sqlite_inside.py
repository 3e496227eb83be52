"""A worker has a write transaction of SQLite open and waits for an order; its parent waits for the database, up to an hour."""

# /// zoo
# expect = "hang"
# causes = ["stuck-worker"]
# culprit = ["keep_open"]
# provable = false  # SQLite asks again by the clock
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import multiprocessing
import sqlite3

import zoo


def keep_open(path, orders, ready):
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("BEGIN IMMEDIATE")
    ready.set()
    orders.get()


def save_trial(path):
    database = sqlite3.connect(path, timeout=3600)
    zoo.say_hang()
    with database:
        database.execute("INSERT INTO trials VALUES (0.25)")


def main():
    zoo.warm_up()
    path = zoo.directory() / "trials.db"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE trials (loss REAL)")
    database.close()
    context = multiprocessing.get_context("fork")
    orders, ready = context.SimpleQueue(), context.Event()
    worker = context.Process(target=keep_open, args=(path, orders, ready), daemon=True)
    worker.start()
    ready.wait()
    save_trial(path)
    orders.put("stop")
    worker.join()
    zoo.finish()


main()
