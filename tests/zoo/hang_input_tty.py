"""input() on a terminal at which nobody sits."""

# /// zoo
# expect = "hang"
# causes = ["stdin-wait"]
# culprit = ["Overwrite", "input", "terminal", "standard input"]
# provable = false
# needs = []
# stdin = "tty"
# cure = "environment"
# timeouts = "stall"
# ///

from __future__ import annotations

import zoo


def main():
    zoo.warm_up()
    zoo.say_hang()
    if input("Overwrite adapter_model.safetensors? [y/N] ") == "y":
        zoo.finish()


main()
