"""A child asks whether to install the packages for GGUF (unsloth#3090)."""

# /// zoo
# expect = "hang"
# causes = ["stdin-wait", "stuck-worker"]
# culprit = ["standard input", "stdin"]
# provable = false
# needs = []
# stdin = "open-pipe"
# cure = "environment"
# timeouts = "stall"
# ///

from __future__ import annotations

import subprocess

import zoo


def main():
    zoo.warm_up()
    zoo.say_hang()
    subprocess.run(
        ["bash", "-c", "read -p 'The following packages will be installed: cmake. Continue? [Y/n] ' x; echo $x"], check=False
    )


main()
