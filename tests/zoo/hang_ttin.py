"""A background job reads from the terminal and is stopped by SIGTTIN."""

# /// zoo
# expect = "hang"
# causes = ["stdin-wait", "process-stopped"]
# culprit = ["SIGTTIN", "tty", "terminal"]
# provable = false
# needs = []
# stdin = "tty"
# cure = "environment"
# timeouts = "stall"
# ///

from __future__ import annotations

import os
import subprocess
import sys

import zoo


def main():
    zoo.warm_up()
    script = "print(open('/dev/tty').readline())"
    child = subprocess.Popen([sys.executable, "-S", "-c", script], preexec_fn=os.setpgrp)
    zoo.say_hang()
    child.wait()


main()
