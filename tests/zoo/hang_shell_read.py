"""A shell asks a FIFO again and again, each time with a timeout, and prints how long it has waited."""

# /// zoo
# expect = "hang"
# causes = ["poll-loop"]
# culprit = ["bash"]
# provable = false
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import os

import zoo


def main():
    zoo.warm_up()
    path = zoo.directory() / "ready.fifo"
    os.mkfifo(path)
    zoo.say_hang()
    script = f'exec 9<> "{path}"; until read -t 0.5 -u 9 line; do echo "still waiting, $SECONDS s"; done'
    os.execvp("bash", ["bash", "-c", script])


main()
