"""waitpid on a child that was stopped."""

# /// zoo
# expect = "hang"
# causes = ["process-stopped", "stuck-worker"]
# culprit = ["stopped", "SIGSTOP"]
# provable = true
# needs = []
# stdin = "null"
# cure = "continue"
# timeouts = "stall"
# ///

from __future__ import annotations

import os
import signal
import subprocess

import zoo


def main():
    zoo.warm_up()
    child = subprocess.Popen(["sleep", "1"])
    os.kill(child.pid, signal.SIGSTOP)
    zoo.say_hang()
    child.wait()
    zoo.finish()


main()
