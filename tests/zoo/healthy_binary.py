"""A job that writes binary data on its standard output."""

# /// zoo
# expect = "healthy"
# lives_by = "output"
# seconds = "3*S"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import os
import sys
import time

import zoo

end = time.monotonic() + 3 * zoo.stall()
while time.monotonic() < end:
    sys.stdout.buffer.write(os.urandom(3000))
    sys.stdout.buffer.flush()
    time.sleep(0.2)
print(flush=True)
zoo.finish()
