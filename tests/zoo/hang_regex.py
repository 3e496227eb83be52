"""A regular expression that backtracks for ever, after some steps."""

# /// zoo
# expect = "hang"
# causes = ["busy-loop"]
# culprit = ["clean", "match"]
# provable = false
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "rhythm"
# ///

from __future__ import annotations

import re

import zoo


def clean(text):
    return re.match(r"(\w+\s?)+$", text)


def main():
    zoo.warm_up()
    zoo.say_hang()
    clean("a" * 60 + "!")


main()
