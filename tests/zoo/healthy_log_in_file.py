"""A job that says everything into a log file of its own and nothing on its output; it is idle between steps."""

# /// zoo
# expect = "healthy"
# lives_by = "work counter in a file"
# seconds = "3*S"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import logging
import time

import zoo

logging.basicConfig(filename=zoo.directory() / "train.log", level=logging.INFO, format="%(asctime)s %(message)s")
end, step = time.monotonic() + 3 * zoo.stall(), 0
while time.monotonic() < end:
    step += 1
    zoo.compute(0.15)
    logging.info("step %d/1000 loss %.4f lr 2e-4 grad_norm 0.8", step, 2.5 / step)
    time.sleep(0.25)
zoo.finish()
