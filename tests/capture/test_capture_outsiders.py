"""Who else holds the other end: real descriptors, locks and memory, held by real processes outside of what counts as the job."""

from __future__ import annotations

import _multiprocessing
import ctypes
import fcntl
import mmap
import multiprocessing
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import pytest

from unsloth_watch.capture.deadline import Deadline
from unsloth_watch.capture.descriptors import read_open_files
from unsloth_watch.capture.outsiders import find_outsiders
from unsloth_watch.capture.waits import read_file


@contextmanager
def job(*fds: int) -> Iterator[int]:
    """A process that has inherited descriptors, and stands for the job."""
    script = "print('ready', flush=True); import sys; sys.stdin.read()"
    command = [sys.executable, "-S", "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=fds) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.kill()


def ask(target: str, *members: int) -> list[tuple[int, int | None]]:
    outsiders, _ = find_outsiders([target], members, Deadline(10))
    return [(one.pid, one.mode) for one in outsiders if one.target == target]


def test_an_end_of_a_pipe_is_found_with_its_mode_and_not_with_the_job_itself() -> None:
    reader, writer = os.pipe()
    target = os.readlink(f"/proc/self/fd/{reader}")
    try:
        with job(reader) as pid:
            assert sorted(ask(target, pid)) == [(os.getpid(), 0), (os.getpid(), 1)]
            assert sorted(ask(target, os.getpid())) == [(pid, 0)]
            assert ask(target, pid, os.getpid()) == []
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.skipif(not hasattr(os, "eventfd"), reason="os.eventfd came with Python 3.10 and needs glibc 2.8")
def test_an_eventfd_is_told_from_another_by_its_number() -> None:
    ours, other = os.eventfd(0), os.eventfd(0)
    names = {file.fd: file.object for file in read_open_files(os.getpid())}
    try:
        with job(ours) as pid:
            assert ask(names[ours] or "", os.getpid()) == [(pid, 2)]
            assert ask(names[other] or "", os.getpid()) == []
    finally:
        os.close(ours)
        os.close(other)


def test_who_has_a_file_open_counts_only_with_a_lock_on_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("w") as file:
        os.set_inheritable(file.fileno(), True)
        with job(file.fileno()) as pid:
            assert ask(str(path), os.getpid()) == []
            fcntl.flock(file, fcntl.LOCK_EX)
            assert ask(str(path), os.getpid()) == [(pid, 1)]


def place_of(pid: int, sign: str) -> str:
    line = next(row for row in read_file(f"/proc/{pid}/maps").decode().splitlines() if sign in row and row.split()[1].endswith("s"))
    return ":".join(line.split()[3:5])


def test_shared_memory_is_found_in_whoever_maps_it() -> None:
    with mmap.mmap(-1, 4096) as memory:
        memory[0] = 1
        child = os.fork()
        if child == 0:
            os.read(0 if os.isatty(0) else os.pipe()[0], 1)
            os._exit(0)
        try:
            place = place_of(child, "/dev/zero")
            found = [pid for pid, _ in ask(place, child)]
            assert found == [os.getpid()]
            assert ask(place, child, os.getpid()) == []
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)


def test_a_named_semaphore_can_be_opened_by_anybody_although_its_mapping_looks_deleted() -> None:
    name = f"/unsloth-watch-test-{os.getpid()}"
    semaphore = _multiprocessing.SemLock(1, 0, 1, name, False)
    try:
        place = place_of(os.getpid(), "/dev/shm/")
        assert ask(place, os.getpid()) == [(0, None)]
    finally:
        _multiprocessing.sem_unlink(name)
    assert ask(place, os.getpid()) == []
    del semaphore


def test_the_locks_of_multiprocessing_have_no_name_that_others_know() -> None:
    for kind in ("fork", "spawn"):
        before = read_file("/proc/self/maps").decode().splitlines()
        lock = multiprocessing.get_context(kind).Lock()
        fresh = [row for row in read_file("/proc/self/maps").decode().splitlines() if row not in before and "/dev/shm/" in row]
        (place,) = {":".join(row.split()[3:5]) for row in fresh}
        assert ask(place, os.getpid()) == [], kind
        del lock


def test_shared_memory_of_multiprocessing_is_there_to_be_opened_by_others() -> None:
    memory = SharedMemory(create=True, size=4096)
    try:
        assert ask(place_of(os.getpid(), memory.name.strip("/")), os.getpid()) == [(0, None)]
    finally:
        memory.close()
        memory.unlink()


@pytest.mark.skipif(not hasattr(os, "eventfd"), reason="os.eventfd came with Python 3.10 and needs glibc 2.8")
def test_an_eventfd_of_a_process_with_asynchronous_input_may_be_written_by_the_kernel() -> None:
    setup, destroy = {"x86_64": (206, 207), "aarch64": (0, 1)}.get(platform.machine(), (0, 0))
    if not destroy:
        pytest.skip("the numbers of io_setup and io_destroy are not known here")
    event, ring = os.eventfd(0), ctypes.c_ulong()
    (name,) = (file.object for file in read_open_files(os.getpid()) if file.fd == event)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        assert ask(name or "", os.getpid()) == []
        if libc.syscall(setup, 1, ctypes.byref(ring)) != 0:
            pytest.skip(f"io_setup is refused here: {os.strerror(ctypes.get_errno())}")
        assert ask(name or "", os.getpid()) == [(0, None)]
        assert libc.syscall(destroy, ring) == 0
        assert ask(name or "", os.getpid()) == []
    finally:
        os.close(event)


def test_a_deadline_that_is_over_leaves_everybody_unseen() -> None:
    outsiders, unseen = find_outsiders(["pipe:[1]"], [os.getpid()], Deadline(0))
    assert outsiders == ()
    assert unseen > 0
