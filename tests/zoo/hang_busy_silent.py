"""A loop that does not end, in a job that never printed anything."""

# /// zoo
# expect = "hang"
# causes = ["busy-loop"]
# culprit = ["split"]
# provable = false
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "busy"
# ///

from __future__ import annotations

import zoo


def split(text, size):
    pieces, at = [], 0
    while at < len(text):
        end = text.rfind(" ", at, at + size)
        pieces = [*pieces[-10:], text[at:end]]
        at = max(at, end)
    return pieces


def main():
    zoo.compute(1.5)
    zoo.leave_if_cured()
    zoo.say_hang()
    split("word " * 100 + "x" * 500, 64)


main()
