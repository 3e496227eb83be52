"""subprocess with stdout=PIPE and wait(): the child fills the pipe."""

# /// zoo
# expect = "hang"
# causes = ["pipe-deadlock"]
# culprit = ["pipe", "convert"]
# provable = true
# needs = []
# stdin = "null"
# cure = "drain"
# timeouts = "stall"
# ///

from __future__ import annotations

import subprocess
import sys

import zoo


def convert():
    script = "import sys\nfor i in range(3000): print('converted tensor', i, 'x' * 60)"
    process = subprocess.Popen([sys.executable, "-S", "-c", script], stdout=subprocess.PIPE)
    zoo.say_hang()
    return process.wait()


def main():
    zoo.warm_up()
    convert()
    zoo.finish()


main()
