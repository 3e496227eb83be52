"""An epoll set without a timeout waits for a timerfd."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "0.6*S + 3"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import ctypes
import select
import struct

import zoo

zoo.train(steps=3)
libc = ctypes.CDLL(None)
clock = libc.timerfd_create(1, 0)
libc.timerfd_settime(clock, 0, struct.pack("=qqqq", 0, 0, int(0.6 * zoo.stall()), 0), None)
with select.epoll() as poll:
    poll.register(clock, select.EPOLLIN)
    assert poll.poll()
zoo.train(steps=3, first=4)
zoo.finish()
