"""A worker has a write transaction of SQLite open for a while; its parent waits for the database and then goes on."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "0.6*S + 3"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import multiprocessing
import sqlite3
import time

import zoo


def write_slowly(path, ready):
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("BEGIN IMMEDIATE")
    ready.set()
    time.sleep(0.6 * zoo.stall())
    database.execute("COMMIT")


def main():
    zoo.train(steps=3)
    path = zoo.directory() / "trials.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE trials (loss REAL)")
    database.close()
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    worker = context.Process(target=write_slowly, args=(path, ready))
    worker.start()
    ready.wait()
    database = sqlite3.connect(path, timeout=3600)
    with database:
        database.execute("INSERT INTO trials VALUES (0.25)")
    worker.join()
    zoo.train(steps=3, first=4)
    zoo.finish()


main()
