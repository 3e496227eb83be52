"""Parent and child each wait for the other's line."""

# /// zoo
# expect = "hang"
# causes = ["stuck-worker", "pipe-deadlock"]
# culprit = ["ask"]
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

CODE = "import sys\nfor line in sys.stdin: print(line.upper(), flush=True)"


def ask(server):
    server.stdin.write("hello")  # no newline and no flush
    zoo.say_hang()
    return server.stdout.readline()


def main():
    zoo.warm_up()
    server = subprocess.Popen([sys.executable, "-S", "-c", CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    print(ask(server))


main()
