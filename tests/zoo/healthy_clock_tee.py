"""A thread prints for ever, and what stands in the place of standard output counts and wakes the main thread."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "0.6*S + 3"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import sys
import threading
import time

import zoo

done = threading.Event()


class Tee:
    """Passes on what is printed, and has heard enough at last."""

    def __init__(self, out, lines):
        self.out, self.lines = out, lines

    def write(self, text):
        self.lines -= text.count("\n")
        if self.lines <= 0:
            done.set()
        return self.out.write(text)

    def flush(self):
        self.out.flush()


def tell():
    while True:
        time.sleep(0.5)
        print(f"alive {time.monotonic():.0f}", flush=True)


def main():
    zoo.train(steps=3)
    sys.stdout = Tee(sys.stdout, 2 * 0.6 * zoo.stall())
    threading.Thread(target=tell, daemon=True).start()
    done.wait()
    zoo.finish()


main()
