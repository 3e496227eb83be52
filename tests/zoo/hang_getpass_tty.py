"""getpass on the terminal, in the middle of the night."""

# /// zoo
# expect = "hang"
# causes = ["stdin-wait"]
# culprit = ["getpass", "Token", "tty", "terminal"]
# provable = false
# needs = []
# stdin = "tty"
# cure = "environment"
# timeouts = "stall"
# ///

from __future__ import annotations

import getpass

import zoo


def main():
    zoo.warm_up()
    zoo.say_hang()
    getpass.getpass("Token: ")


main()
