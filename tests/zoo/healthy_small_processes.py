"""Many small processes one after the other, as build scripts have; each uses 50 ms of CPU."""

# /// zoo
# expect = "healthy"
# lives_by = "children"
# seconds = "3*S"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import subprocess
import sys
import time

import zoo

end = time.monotonic() + 3 * zoo.stall()
while time.monotonic() < end:
    subprocess.run([sys.executable, "-S", "-c", "sum(range(2_000_000))"], check=True)
zoo.finish()
