"""A launcher that replaces itself again and again, as conda, accelerate and torchrun wrappers do."""

# /// zoo
# expect = "healthy"
# lives_by = "cpu"
# seconds = "2*S"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import os
import sys

import zoo

left = int(os.environ.get("ZOO_LEFT", "4"))
zoo.compute(2 * zoo.stall() / 5)
if left:
    os.environ["ZOO_LEFT"] = str(left - 1)
    os.execv(sys.executable, [sys.executable, *sys.argv])
zoo.finish()
