"""A process outside the tree has a write transaction open; SQLite waits for it, up to an hour."""

# /// zoo
# expect = "hang"
# causes = ["lock-held-elsewhere"]
# culprit = ["trials.db"]
# provable = false  # the holder may let go
# needs = []
# stdin = "null"
# cure = "environment"
# timeouts = "stall"
# outside = ["sqlite", "trials.db"]
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
    save_trial(zoo.outside("sqlite", "trials.db"))
    zoo.finish()


main()
