"""The one clock: monotonic seconds for deadlines, wall time for people, CPU seconds of this process for what we cost."""

from __future__ import annotations

import os
import time

monotonic = time.monotonic
wall = time.time
cpu = time.process_time


def helpers_cpu() -> float:
    """Return the CPU seconds of the children that have been waited for: py-spy, mostly."""
    times = os.times()
    return times.children_user + times.children_system
