"""A poll every 100 ms for a file that a working child makes in the end."""

# /// zoo
# expect = "healthy"
# lives_by = "cpu"
# seconds = "2*S"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import subprocess
import sys
import time

import zoo

path = zoo.directory() / "model.gguf"
script = f"""
import sys
sys.path.insert(0, {str(zoo.__file__).rpartition("/")[0]!r})
import zoo
zoo.compute({2 * zoo.stall()})
open({str(path)!r}, "w").close()
"""
worker = subprocess.Popen([sys.executable, "-c", script])
while not path.exists():
    time.sleep(0.1)
worker.wait()
zoo.finish()
