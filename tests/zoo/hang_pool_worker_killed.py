"""multiprocessing.Pool replaces a killed worker; the result of its task never comes."""

# /// zoo
# expect = "hang"
# causes = ["lost-worker"]
# culprit = ["tokenize", "Pool"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import multiprocessing
import os
import signal

import zoo


def tokenize(shard):
    zoo.compute(0.1)
    if shard == 5:
        zoo.say_hang()
        os.kill(os.getpid(), signal.SIGKILL)
    return shard


def main():
    zoo.warm_up()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map(tokenize, range(16), chunksize=1))


main()
