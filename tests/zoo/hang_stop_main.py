"""The training process is stopped by a signal."""

# /// zoo
# expect = "hang"
# causes = ["process-stopped"]
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

import zoo


def main():
    zoo.warm_up()
    zoo.say_hang()
    os.kill(os.getpid(), signal.SIGSTOP)
    zoo.train(first=9)
    zoo.finish()


main()
