"""A job that is asleep most of the time and reports its steps with sd_notify."""

# /// zoo
# expect = "healthy"
# lives_by = "work counter"
# seconds = "3*S"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import os
import socket
import time

import zoo

address = os.environ.get("NOTIFY_SOCKET", "")
end, step = time.monotonic() + 3 * zoo.stall(), 0
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    while time.monotonic() < end:
        step += 1
        if address:
            notify.sendto(b"WATCHDOG=1\nX_STEP=%d\n" % step, "\0" + address[1:] if address.startswith("@") else address)
        time.sleep(zoo.stall() / 5)
zoo.finish()
