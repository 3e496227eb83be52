"""A shell pipeline moves bytes slowly: a | b | c, 2 kB twice a second."""

# /// zoo
# expect = "healthy"
# lives_by = "bytes in volume"
# seconds = "3*S"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import subprocess
import sys

import zoo

SOURCE = f"""
import os, time
end = time.monotonic() + {3 * zoo.stall()}
while time.monotonic() < end:
    os.write(1, b'x' * 1999 + b'\\n')
    time.sleep(0.5)
"""
path = zoo.directory() / "source.py"
path.write_text(SOURCE)
subprocess.run(["bash", "-c", f"{sys.executable} -S {path} | tr x y | cat > {zoo.directory()}/rows.txt"], check=True)
zoo.finish()
