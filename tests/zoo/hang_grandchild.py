"""A shell script waits for a tool whose helper waits on a lock that nobody gives back: the culprit is three processes down."""

# /// zoo
# expect = "hang"
# causes = ["stuck-worker", "abandoned-wait", "thread-deadlock"]
# culprit = ["convert_layer"]
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

HELPER = """
import threading
def convert_layer(lock):
    lock.acquire()
    lock.acquire()
convert_layer(threading.Lock())
"""


def main():
    zoo.warm_up()
    path = zoo.directory() / "helper.py"
    path.write_text(HELPER)
    zoo.say_hang()
    subprocess.run(["bash", "-c", f"{sys.executable} {path}; echo converted"], check=False)


main()
