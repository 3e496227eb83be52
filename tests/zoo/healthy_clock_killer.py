"""A worker waits for ever, and a shell beside it ends it after its time: a timeout of the job itself."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "0.6*S + 3"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import subprocess
import sys

import zoo

zoo.train(steps=3)
worker = "import threading; threading.Event().wait()"
script = f"'{sys.executable}' -S -c '{worker}' & worker=$!; (sleep {0.6 * zoo.stall()}; kill $worker) & wait $worker; wait"
subprocess.run(["bash", "-c", script], check=True)
zoo.train(steps=3, first=4)
zoo.finish()
