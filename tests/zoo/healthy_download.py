"""A download over a socket at 200 kB/s that is kept in memory: nothing of it is in /proc/PID/io."""

# /// zoo
# expect = "healthy"
# lives_by = "socket bytes"
# seconds = "3*S"
# needs = []
# stdin = "null"
# outside = ["serve", "steady", "port"]
# ///

from __future__ import annotations

import urllib.request

import zoo

print("downloading", flush=True)
data = urllib.request.urlopen(f"http://127.0.0.1:{zoo.port('steady')}/weights").read()
assert len(data) == 200_000 * 3 * zoo.stall(), len(data)
zoo.finish()
