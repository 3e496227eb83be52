"""A tool has ended, but its background child keeps the pipe open."""

# /// zoo
# expect = "hang"
# causes = ["stuck-worker", "pipe-deadlock", "abandoned-wait", "lost-worker"]
# culprit = ["collect", "sleep"]
# provable = false
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import subprocess

import zoo


def collect():
    tool = subprocess.Popen(["sh", "-c", "sleep 1000 & echo done"], stdout=subprocess.PIPE)
    zoo.say_hang()
    return tool.stdout.read()


def main():
    zoo.warm_up()
    collect()


main()
