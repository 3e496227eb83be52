"""An epoll set waits for a pipe of the job and for a socket whose other end is outside."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "0.6*S + 3"
# needs = []
# stdin = "null"
# outside = ["wake", "waker"]
# ///

from __future__ import annotations

import os
import select

import zoo

zoo.train(steps=3)
reader, writer = os.pipe()
waker = zoo.ask_waker("answer")
with select.epoll() as poll:
    poll.register(reader, select.EPOLLIN)
    poll.register(waker, select.EPOLLIN)
    assert [fd for fd, _ in poll.poll()] == [waker.fileno()]
zoo.train(steps=3, first=4)
zoo.finish()
