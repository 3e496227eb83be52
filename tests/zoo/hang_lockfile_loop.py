"""A home-made O_EXCL lock file of a process that was killed; the waiter sleeps and tries again."""

# /// zoo
# expect = "hang"
# causes = ["stale-lock-file", "poll-loop"]
# culprit = ["cache.lck", "acquire"]
# provable = false  # whoever removes the file ends it
# needs = []
# stdin = "null"
# cure = "quarantine"
# timeouts = "stall"
# ///

from __future__ import annotations

import os
import subprocess
import sys
import time

import zoo


def acquire(path):
    while True:
        try:
            return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            time.sleep(0.2)


def main():
    zoo.warm_up()
    path = zoo.directory() / "cache.lck"
    # The earlier owner writes its PID and is killed.
    script = "import os, sys; open(sys.argv[1], 'x').write(str(os.getpid()))"
    if zoo.is_first():
        subprocess.run([sys.executable, "-S", "-c", script, str(path)], check=True)
    zoo.say_hang()
    acquire(path)
    zoo.finish()


main()
