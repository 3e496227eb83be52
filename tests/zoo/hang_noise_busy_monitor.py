"""A monitor thread burns 3 % of a core while the main thread waits for its stuck child."""

# /// zoo
# expect = "hang"
# causes = ["stuck-worker", "abandoned-wait"]
# culprit = ["export_gguf"]
# provable = false
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import multiprocessing
import threading
import time

import zoo


def sample():
    while True:
        zoo.compute(0.003)
        time.sleep(0.1)


def export_gguf():
    zoo.say_hang()
    threading.Event().wait()


def main():
    threading.Thread(target=sample, name="sampler", daemon=True).start()
    zoo.warm_up()
    exporter = multiprocessing.get_context("fork").Process(target=export_gguf)
    exporter.start()
    exporter.join()


main()
