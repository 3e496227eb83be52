"""A poll every 2 s on the log of a server process that has died."""

# /// zoo
# expect = "hang"
# causes = ["lost-worker", "poll-loop"]
# culprit = ["wait_until_ready"]
# provable = false
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import subprocess
import sys
import time

import zoo


def wait_until_ready(log):
    while b"startup complete" not in log.read_bytes():
        time.sleep(2)


def main():
    zoo.warm_up()
    log = zoo.directory() / "server.log"
    with log.open("wb") as file:
        script = "print('loading weights', flush=True); raise SystemExit('no memory')"
        server = subprocess.Popen([sys.executable, "-S", "-c", script], stdout=file, stderr=file)
    zoo.say_hang()
    wait_until_ready(log)
    print(server)


main()
