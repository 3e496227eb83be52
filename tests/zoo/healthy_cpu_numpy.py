"""Silent matrix products in native code without the GIL; the Python stack never changes."""

# /// zoo
# expect = "healthy"
# lives_by = "cpu"
# seconds = "3*S"
# needs = ["numpy"]
# stdin = "null"
# ///

from __future__ import annotations

import time

import numpy

import zoo


def merge(size, until):
    matrix = numpy.random.default_rng(0).random((size, size))
    while time.monotonic() < until:
        matrix = matrix @ matrix
        matrix /= numpy.abs(matrix).max()
    return matrix


zoo.train(steps=2)
print(merge(700, time.monotonic() + 3 * zoo.stall()).shape)
zoo.finish()
