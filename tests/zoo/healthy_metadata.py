"""Thousands of small files are looked at, renamed and removed: no bytes are read or written."""

# /// zoo
# expect = "healthy"
# lives_by = "cpu"
# seconds = "3*S"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import os
import time

import zoo

place = zoo.directory() / "rows"
place.mkdir()
for number in range(3000):
    (place / f"{number}.json").touch()
end = time.monotonic() + 3 * zoo.stall()
while time.monotonic() < end:
    for entry in list(os.scandir(place)):
        entry.stat()
        os.rename(entry.path, entry.path + ".moved")
        os.rename(entry.path + ".moved", entry.path)
zoo.finish()
