"""A connection of SQLite has a write transaction open, and the same thread writes through a second one: it waits for itself."""

# /// zoo
# expect = "hang"
# causes = ["thread-deadlock"]
# culprit = ["save_trial"]
# provable = false  # SQLite asks again by the clock
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import sqlite3

import zoo


def save_trial(path):
    database = sqlite3.connect(path, timeout=3600)
    zoo.say_hang()
    with database:
        database.execute("INSERT INTO trials VALUES (0.25)")


def main():
    zoo.warm_up()
    path = zoo.directory() / "trials.db"
    study = sqlite3.connect(path)
    study.execute("CREATE TABLE trials (loss REAL)")
    study.execute("INSERT INTO trials VALUES (0.5)")
    save_trial(path)
    study.commit()
    zoo.finish()


main()
