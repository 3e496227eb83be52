"""The three choices of wandb's login, before training begins (wandb#3223)."""

# /// zoo
# expect = "hang"
# causes = ["stdin-wait"]
# culprit = ["prompt_choice", "Enter your choice", "standard input", "stdin"]
# provable = false
# needs = []
# stdin = "open-pipe"
# cure = "environment"
# timeouts = "stall"
# ///

from __future__ import annotations

import sys

import zoo


def prompt_choice():
    print("wandb: (1) Create a W&B account", file=sys.stderr)
    print("wandb: (2) Use an existing W&B account", file=sys.stderr)
    print("wandb: (3) Don't visualize my results", file=sys.stderr)
    sys.stderr.write("wandb: Enter your choice: ")
    sys.stderr.flush()
    zoo.say_hang()
    return sys.stdin.readline()


def main():
    zoo.compute(1.5)
    zoo.leave_if_cured()
    prompt_choice()


main()
