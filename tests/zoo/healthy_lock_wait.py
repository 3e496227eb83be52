"""One process waits 0.8 stall timeouts for a lock that another job gives back, then works."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "0.8*S + 3"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import fcntl
import subprocess
import sys

import zoo

path = zoo.directory() / "cache.lock"
script = (
    f"import fcntl, time; f = open({str(path)!r}, 'w'); fcntl.flock(f, 2); print('ok', flush=True); time.sleep({0.8 * zoo.stall()})"
)
holder = subprocess.Popen([sys.executable, "-S", "-c", script], stdout=subprocess.PIPE)
holder.stdout.readline()
with path.open("w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
holder.wait()
zoo.train(steps=5)
zoo.finish()
