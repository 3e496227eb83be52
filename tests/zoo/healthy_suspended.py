"""The whole tree is stopped for two stall timeouts and continued, as by Ctrl-Z and fg or a suspended laptop."""

# /// zoo
# expect = "healthy"
# lives_by = "clock gap"
# seconds = "4*S"
# needs = []
# stdin = "null"
# actions = "stop-continue"
# ///

from __future__ import annotations

import time

import zoo

# The bench stops the supervisor and all below it in mid-way.
for step in range(1, 9):
    time.sleep(zoo.stall() / 4)
    print(f"step {step}/8 loss {2 / step:.3f}", flush=True)
zoo.finish()
