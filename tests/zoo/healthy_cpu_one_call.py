"""One single call into native code that computes for three stall timeouts."""

# /// zoo
# expect = "healthy"
# lives_by = "cpu"
# seconds = "3*S"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import hashlib
import time

import zoo

start = time.monotonic()
hashlib.pbkdf2_hmac("sha256", b"zoo", b"salt", 1_000_000)
a_second = 1_000_000 / (time.monotonic() - start)
print("deriving key", flush=True)
hashlib.pbkdf2_hmac("sha256", b"zoo", b"salt", int(3 * zoo.stall() * a_second))
zoo.finish()
