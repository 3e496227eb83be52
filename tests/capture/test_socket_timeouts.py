"""Time-outs of sockets: what no file of /proc shows is asked of the socket itself."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from unsloth_watch.capture.capture import survey
from unsloth_watch.capture.process import read_start
from unsloth_watch.capture.sockettimeouts import has_timeout
from unsloth_watch.model.evidence import ThreadEvidence
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.waits.scene import Doubt, Scene
from unsloth_watch.waits.trace import trace
from waiting import until

PAIR = """
import socket, struct
ours, theirs = socket.socketpair()
{option}
print(ours.fileno(), flush=True)
ours.recv(1)
"""
TIMEOUT = "ours.setsockopt(socket.SOL_SOCKET, socket.{name}, struct.pack('@ll', 3600, 0))"


@contextmanager
def waiting_on_a_pair(option: str) -> Iterator[tuple[int, int]]:
    """A process that reads from its own socket pair, once it sleeps there: its PID and descriptor."""
    code = PAIR.format(option=option)
    with subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        fd = int(process.stdout.readline())
        try:
            until(lambda: main_thread(process.pid).call == "recvfrom")
            yield process.pid, fd
        finally:
            process.kill()


def main_thread(pid: int) -> ThreadEvidence:
    ref = ProcessRef(pid, read_start(pid) or 0)
    return survey([ref], ref, at=time.monotonic(), clock=time.monotonic, is_sealed=True).processes[0].threads[0]


@pytest.fixture(autouse=True)
def _lends_descriptors() -> None:
    """Docker's default rules refuse ``pidfd_getfd`` without SYS_PTRACE."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        answer = has_timeout(os.getpid(), ours.fileno(), os.readlink(f"/proc/self/fd/{ours.fileno()}"), is_write=False)
    if answer is None:
        pytest.skip("pidfd_getfd is refused here: run with --cap-add SYS_PTRACE, on Linux 5.6 or later")


def test_a_read_that_ends_by_the_sockets_own_timeout_spoils_the_proof() -> None:
    with waiting_on_a_pair(TIMEOUT.format(name="SO_RCVTIMEO")) as (pid, _):
        ref = ProcessRef(pid, read_start(pid) or 0)
        found = survey([ref], ref, at=time.monotonic(), clock=time.monotonic, is_sealed=True)
        argument = trace(Scene(found, is_gpu_idle=True, is_strict=True))
        assert isinstance(argument, Doubt)
        assert "with a time-out of the socket" in argument.why


@pytest.mark.parametrize("option", ["", TIMEOUT.format(name="SO_SNDTIMEO")])
def test_a_read_without_such_a_timeout_does_not(option: str) -> None:
    with waiting_on_a_pair(option) as (pid, _):
        ref = ProcessRef(pid, read_start(pid) or 0)
        found = survey([ref], ref, at=time.monotonic(), clock=time.monotonic, is_sealed=True)
        assert not isinstance(trace(Scene(found, is_gpu_idle=True, is_strict=True)), Doubt)


def test_another_thing_behind_the_same_number_is_no_answer() -> None:
    with waiting_on_a_pair("") as (pid, fd):
        assert has_timeout(pid, fd, "socket:[1]", is_write=False) is None


def test_a_process_that_has_gone_is_no_answer() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert has_timeout(process.pid, 0, "socket:[1]", is_write=False) is None
