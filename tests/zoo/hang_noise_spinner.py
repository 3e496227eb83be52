"""A spinner turns on the terminal while the build behind it waits for a stale lock."""

# /// zoo
# expect = "hang"
# causes = ["stale-lock-file", "poll-loop"]
# culprit = ["build.lock", "wait_for_lock"]
# provable = false  # whoever removes the file ends it
# needs = []
# stdin = "tty"
# cure = "quarantine"
# timeouts = "stall"
# ///

from __future__ import annotations

import itertools
import os
import sys
import threading
import time

import zoo


def spin():
    for sign in itertools.cycle("|/-\\"):
        sys.stderr.write(f"\rCompiling kernels {sign} ")
        sys.stderr.flush()
        time.sleep(0.2)


def wait_for_lock(path):
    while os.path.exists(path):
        time.sleep(0.1)


def main():
    zoo.warm_up()
    path = zoo.directory() / "build.lock"
    if zoo.is_first():
        path.touch()
    threading.Thread(target=spin, name="spinner", daemon=True).start()
    zoo.say_hang()
    wait_for_lock(path)
    zoo.finish()


main()
