"""A thread runs a short tool every second, as GPU monitors run nvidia-smi, while the exit joins a stuck thread."""

# /// zoo
# expect = "hang"
# causes = ["exit-stall"]
# culprit = ["upload", "_shutdown"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import subprocess
import threading
import time

import zoo


def monitor():
    while True:
        subprocess.run(["uname", "-a"], stdout=subprocess.DEVNULL, check=False)
        time.sleep(1)


def upload():
    threading.Event().wait()


def main():
    threading.Thread(target=monitor, name="monitor", daemon=True).start()
    zoo.warm_up(total=8)
    threading.Thread(target=upload, name="uploader").start()
    zoo.say_hang()


main()
