"""A logger's lock is held by a thread that writes into a pipe which the parent does not read."""

# /// zoo
# expect = "hang"
# causes = ["pipe-deadlock", "stuck-worker"]
# culprit = ["run_tool", "pipe"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import subprocess
import sys

import zoo

CODE = """
import logging, threading
logging.basicConfig(format="%(message)s")
def chat():
    for _ in range(3000):
        logging.warning("x" * 60)
threads = [threading.Thread(target=chat) for _ in range(2)]
[t.start() for t in threads]
[t.join() for t in threads]
"""


def run_tool():
    tool = subprocess.Popen([sys.executable, "-c", CODE], stderr=subprocess.PIPE)
    zoo.say_hang()
    return tool.wait()


def main():
    zoo.warm_up()
    run_tool()


main()
