"""Quick steps, then a checkpoint that is written slowly for 1.5 stall timeouts, then steps again."""

# /// zoo
# expect = "healthy"
# lives_by = "file bytes"
# seconds = "1.5*S + 6"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import os
import time

import zoo

zoo.train(steps=10, step_s=0.2)
end = time.monotonic() + 1.5 * zoo.stall()
with (zoo.directory() / "checkpoint-10.pt").open("wb") as file:
    while time.monotonic() < end:
        file.write(os.urandom(200_000))
        file.flush()
        time.sleep(0.25)
zoo.train(steps=10, step_s=0.2, first=11)
zoo.finish()
