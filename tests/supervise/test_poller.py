"""What ends the loop's sleep, and what is read during it."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from unsloth_watch.sense.heartbeat import HeartbeatReader
from unsloth_watch.supervise.poller import Poller

LOST = SimpleNamespace(is_lost=True)
FAR = 3600.0


@pytest.fixture
def poller() -> Iterator[Poller]:
    ours, theirs = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = signal.set_wakeup_fd(theirs)
    yield Poller(ours)
    signal.set_wakeup_fd(before)
    os.close(ours)
    os.close(theirs)


@pytest.mark.quick
def test_reports_of_the_command_are_read_without_ending_the_sleep(poller, tmp_path):
    heartbeat = HeartbeatReader(str(tmp_path))
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.connect(heartbeat.address)
    seen = []

    def read():
        seen.append(heartbeat.latest())
        if len(seen) < 3:
            sender.send(b"X_STEP=%d" % (len(seen) + 1))
        else:
            poller.wake()

    poller.take(heartbeat.fileno(), read)
    sender.send(b"X_STEP=1")
    poller.sleep(LOST, time.monotonic() + FAR)
    assert seen == [1, 2, 3]
    sender.close()
    heartbeat.close()


@pytest.mark.quick
def test_who_reports_without_a_pause_does_not_hold_up_what_is_due(poller):
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    poller.take(near.fileno(), lambda: None)  # it stays readable for ever
    far.send(b"X_STEP=1")
    due = time.monotonic() + 0.05
    poller.sleep(LOST, due)
    assert time.monotonic() >= due
    near.close()
    far.close()


@pytest.mark.quick
def test_a_report_beside_other_news_is_read_and_ends_the_sleep(poller):
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    poller.take(near.fileno(), lambda: near.recv(100))
    far.send(b"X_STEP=1")
    poller.wake()
    poller.sleep(LOST, time.monotonic() + FAR)
    near.setblocking(False)
    with pytest.raises(BlockingIOError):
        near.recv(100)
    near.close()
    far.close()
