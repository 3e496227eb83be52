"""input() on a pipe that nobody writes to."""

# /// zoo
# expect = "hang"
# causes = ["stdin-wait"]
# culprit = ["Continue", "input", "stdin", "standard input"]
# provable = false
# needs = []
# stdin = "open-pipe"
# cure = "environment"
# timeouts = "stall"
# ///

from __future__ import annotations

import zoo


def main():
    zoo.warm_up()
    zoo.say_hang()
    if input("Output directory is not empty. Continue? [y/N] ") == "y":
        zoo.finish()


main()
