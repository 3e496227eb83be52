"""concurrent.futures: a worker process is stopped by its cgroup's keeper and nobody continues it."""

# /// zoo
# expect = "hang"
# causes = ["process-stopped", "stuck-worker"]
# culprit = ["pack", "stopped", "SIGSTOP"]
# provable = true
# needs = []
# stdin = "null"
# cure = "continue"
# timeouts = "stall"
# ///

from __future__ import annotations

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor

import zoo


def pack(shard):
    zoo.compute(0.05)
    if shard == 7:
        zoo.say_hang()
        os.kill(os.getpid(), signal.SIGSTOP)
    return shard


def main():
    zoo.warm_up()
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        print(sum(pool.map(pack, range(16))), flush=True)
    zoo.finish()


main()
