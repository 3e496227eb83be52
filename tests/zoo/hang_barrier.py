"""A barrier for three threads of which one failed."""

# /// zoo
# expect = "hang"
# causes = ["abandoned-wait", "thread-deadlock"]
# culprit = ["run_shard", "barrier"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import threading

import zoo

barrier = threading.Barrier(3)


def run_shard(number):
    if number == 2:
        zoo.say_hang()
        raise ValueError("shard 2 is empty")
    barrier.wait()


def main():
    zoo.warm_up()
    threads = [threading.Thread(target=run_shard, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


main()
