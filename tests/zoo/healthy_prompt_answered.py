"""A question on standard input is answered by a process of the same job after half a stall timeout."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "0.6*S + 3"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import subprocess
import sys

import zoo

asker = [sys.executable, "-S", "-c", "print('answer:', input('Continue? [y/N] '), flush=True)"]
answer = subprocess.Popen(["bash", "-c", f"sleep {0.6 * zoo.stall()}; echo y"], stdout=subprocess.PIPE)
subprocess.run(asker, stdin=answer.stdout, check=True)
answer.wait()
zoo.train(steps=4)
zoo.finish()
