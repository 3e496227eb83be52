"""A child sleeps and ends; its parent waits for it, and a grandparent for that one."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "0.6*S + 3"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import subprocess

import zoo

zoo.train(steps=3)
subprocess.run(["sh", "-c", f"sleep {0.6 * zoo.stall()}; true"], check=True)
zoo.train(steps=3, first=4)
zoo.finish()
