"""The job waits for a signal that its dead helper would have sent."""

# /// zoo
# expect = "hang"
# causes = ["lost-worker", "abandoned-wait"]
# culprit = ["wait_for_helper", "sigwait"]
# provable = false
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import signal
import subprocess

import zoo


def wait_for_helper():
    return signal.sigwait({signal.SIGUSR1})


def main():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    zoo.warm_up()
    subprocess.run(["false"], check=False)
    zoo.say_hang()
    wait_for_helper()


main()
