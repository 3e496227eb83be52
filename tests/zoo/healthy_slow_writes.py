"""A merge writes its result slowly: 4 KiB every half second, synced."""

# /// zoo
# expect = "healthy"
# lives_by = "file bytes"
# seconds = "3*S"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import os
import time

import zoo

end = time.monotonic() + 3 * zoo.stall()
with (zoo.directory() / "merged.bin").open("wb") as file:
    while time.monotonic() < end:
        file.write(os.urandom(4096))
        file.flush()
        os.fsync(file.fileno())
        time.sleep(0.5)
zoo.finish()
