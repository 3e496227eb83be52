"""A job that gives pages back and faults them in again, slowly, as under memory pressure."""

# /// zoo
# expect = "healthy"
# lives_by = "page faults"
# seconds = "3*S"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import mmap
import time

import zoo

area = mmap.mmap(-1, 64 << 20)
end = time.monotonic() + 3 * zoo.stall()
while time.monotonic() < end:
    area.madvise(mmap.MADV_DONTNEED)
    for at in range(0, len(area), mmap.PAGESIZE):
        area[at] = 1
    time.sleep(0.3)
zoo.finish()
