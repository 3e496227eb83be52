"""Facts about processes beyond their threads: how they ended, their limits, their terminal, shared futexes."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from unsloth_watch.capture.capture import capture
from unsloth_watch.capture.limits import parse_limits
from unsloth_watch.capture.process import parse_background, parse_wait_status, read_process, read_start
from unsloth_watch.capture.threads import parse_place
from unsloth_watch.model.process import ProcessRef
from waiting import until

SEMAPHORES = """
import multiprocessing, os
lock = multiprocessing.get_context("fork").Lock()
lock.acquire()
if os.fork() == 0:
    lock.acquire()
print("ready", flush=True)
lock.acquire()
"""


def test_a_zombie_says_how_it_ended():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"]) as child:
        before = read_process(ProcessRef(child.pid, _start_of(child.pid)))
        assert before is not None
        os.kill(child.pid, signal.SIGKILL)
        until(lambda: (found := read_process(before.ref)) is not None and found.is_zombie)
        read = read_process(before.ref)
        assert read is not None
        assert read.wait_status is not None
        assert os.waitstatus_to_exitcode(read.wait_status) == -signal.SIGKILL
        assert before.wait_status is None


def _start_of(pid: int) -> int:
    start = read_start(pid)
    assert start is not None
    return start


def test_limits_that_stop_a_program_are_read():
    read = read_process(ProcessRef(os.getpid(), _start_of(os.getpid())))
    assert read is not None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert read.limits["Max open files"] == str(soft)
    assert read.rss_bytes is not None
    assert read.rss_bytes > 1 << 20


def test_waiters_of_a_shared_lock_have_its_place_in_common(start):
    target = start(SEMAPHORES)
    child = until(lambda: _children(target.pid))[0]
    refs = [target.ref, ProcessRef(child, _start_of(child))]
    target.await_call("futex")
    evidence = until(lambda: _captured(refs))
    places = {thread.futex for process in evidence.processes for thread in process.threads}
    assert len(places) == 1
    assert None not in places


def _captured(refs):
    evidence = capture(refs, refs[0], at=0.0, clock=time.monotonic)
    return evidence if all(process.threads[0].call == "futex" for process in evidence.processes) else None


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("group", "terminal", "foreground", "expected"), [(7, 0, -1, None), (7, 34816, 7, False), (7, 34816, 9, True)]
)
def test_the_background_of_a_terminal_is_told_from_its_foreground(
    group: int, terminal: int, foreground: int, expected: bool | None
):
    line = f"7 (a) b) S 1 {group} 7 {terminal} {foreground} 0 0".encode()
    assert parse_background(line) is expected


@pytest.mark.quick
def test_a_short_stat_line_has_no_exit_status_and_no_terminal():
    assert parse_wait_status(b"7 (python) Z 1") is None
    assert parse_background(b"7 (python) Z") is None


@pytest.mark.quick
def test_unlimited_limits_are_left_out():
    raw = b"Limit                     Soft Limit           Hard Limit           Units     \n"
    raw += b"Max cpu time              unlimited            unlimited            seconds   \n"
    raw += b"Max open files            1024                 4096                 files     \n"
    assert parse_limits(raw) == {"Max open files": "1024"}


@pytest.mark.quick
def test_a_place_in_shared_memory_is_named_and_one_in_private_memory_is_not():
    maps = b"7f00-7f10 rw-s 00000020 00:01 77 /dev/shm/sem (deleted)\n7f20-7f30 rw-p 00000000 00:00 0 \n"
    assert parse_place(maps, 0x7F08) == f"00:01:77:{0x28}"
    assert parse_place(maps, 0x7F28) is None
    assert parse_place(maps, 0x9000) is None
