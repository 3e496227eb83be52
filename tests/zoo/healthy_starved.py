"""A job of the lowest priority beside two burners on two cores that belong to it: it gets next to nothing."""

# /// zoo
# expect = "healthy"
# lives_by = "cpu"
# seconds = "2*S"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import multiprocessing
import os

import zoo


def burn(seconds):
    zoo.digest(seconds)


def main():
    burners = [multiprocessing.get_context("fork").Process(target=burn, args=(2 * zoo.stall(),)) for _ in range(2)]
    for burner in burners:
        burner.start()
    os.nice(19)
    zoo.compute(2 * zoo.stall())
    for burner in burners:
        burner.join()
    zoo.finish()


main()
