"""A checkpoint is packed by an external tool without a word."""

# /// zoo
# expect = "healthy"
# lives_by = "cpu"
# seconds = "3*S"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import subprocess
import time

import zoo

path = zoo.directory() / "checkpoint.bin"
end = time.monotonic() + 3 * zoo.stall()
while time.monotonic() < end:
    with path.open("wb") as file:
        for seed in range(300):
            file.write(seed.to_bytes(4, "big") * 25_000)
    subprocess.run(["gzip", "-9", "-f", "-k", str(path)], check=True)
path.unlink()
zoo.finish()
