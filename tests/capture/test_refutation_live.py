"""Surveys of large jobs: one who wakes by the clock spares the stacks of all others, and without one a proof is found."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from unsloth_watch.capture.deadline import Deadline
from unsloth_watch.capture.process import read_start
from unsloth_watch.capture.refutation import glance, refute, wakes_by_clock
from unsloth_watch.capture.survey import LARGE, survey
from unsloth_watch.capture.syscalls import name_syscall
from unsloth_watch.capture.waits import read_tasks
from unsloth_watch.judge.quiescence import LEAST_APART_S, Proof, prove
from unsloth_watch.judge.streams import find_streams
from unsloth_watch.model.evidence import Evidence
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.waits.scene import Doubt
from waiting import SLEEPS, until

JOB = """
import os, subprocess, sys, threading, time
def rest():
    lock = threading.Lock(); lock.acquire(); lock.acquire()
def sleep():
    time.sleep(3600)
def listen():
    os.read(os.pipe()[0], 1)
for work in sys.argv[1:]:
    if os.fork() == 0:
        if work == "tool":
            os.execv("/bin/sleep", ["sleep", "3600"])
        globals()[work]()
print("ready", flush=True)
os.wait()
"""
CALLS = {"rest": ("futex",), "sleep": SLEEPS, "tool": SLEEPS, "listen": ("read",)}


@contextmanager
def job(*works: str) -> Iterator[list[ProcessRef]]:
    """Yield a command and its children, each at its work; all of them end with it."""
    with subprocess.Popen([sys.executable, "-c", JOB, *works], stdout=subprocess.PIPE, start_new_session=True) as command:
        pids = [command.pid]
        try:
            assert command.stdout is not None
            assert command.stdout.readline() == b"ready\n"
            pids += map(int, Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split())
            for pid, calls in zip(pids, (("wait4",), *(CALLS[work] for work in works)), strict=True):
                until(
                    lambda pid=pid, calls=calls: any(
                        name_syscall(task.syscall) in calls for task in read_tasks(pid) if task.state == "S"
                    )
                )
            yield [ProcessRef(pid, read_start(pid) or 0) for pid in pids]
        finally:
            for pid in pids[::-1]:
                subprocess.run(["/bin/kill", "-KILL", str(pid)], check=False, stderr=subprocess.DEVNULL)


def take(refs: list[ProcessRef]) -> Evidence:
    return survey(refs, refs[0], at=time.monotonic(), clock=time.monotonic, deadline_s=60.0, is_sealed=True)


@pytest.mark.parametrize("work", ["sleep", "tool"])
def test_one_who_sleeps_spares_the_stacks_of_all_others(work: str) -> None:
    with job(*["rest"] * LARGE, work) as refs:
        found = take(refs)
        assert f"PID {refs[-1].pid} " in found.refuted
        assert {process.ref for process in found.processes} == {refs[0], refs[-1]}
        assert prove([found], is_gpu_idle=True) == Doubt(found.refuted)


def test_who_waits_for_bytes_is_told_nevertheless() -> None:
    with job(*["rest"] * LARGE, "listen", "listen", "sleep") as refs:
        found = take(refs)
        assert found.refuted
        assert find_streams(found) == {refs[-3], refs[-2]}


def test_a_large_job_that_rests_is_proven_without_its_stacks() -> None:
    with job(*["rest"] * LARGE) as refs:
        surveys = [take(refs)]
        assert not surveys[0].refuted
        assert sum(bool(process.threads[0].frames) for process in surveys[0].processes) == 0
        until(lambda: time.monotonic() - surveys[0].at > LEAST_APART_S)
        surveys.append(take(refs))
        assert isinstance(prove(surveys, is_gpu_idle=True), Proof)


def test_a_small_job_is_surveyed_as_a_whole() -> None:
    with job("rest", "sleep") as refs:
        found = take(refs)
        assert not found.refuted
        assert [process.ref for process in found.processes] == refs


def test_who_has_ended_meanwhile_is_passed_over() -> None:
    with job("rest", "sleep") as refs:
        gone = ProcessRef(2**22 + 1, 1)
        assert glance(gone).clocked == ()
        assert refute([*refs, gone], refs[0], Deadline(60.0)) is not None


def test_without_time_nothing_is_refuted() -> None:
    with job("sleep") as refs:
        assert refute(refs, refs[0], Deadline(0.0)) is None


@pytest.mark.quick
@pytest.mark.parametrize(
    ("call", "args", "is_clocked"),
    [
        ("futex", (1, 128, 2, 0), False),
        ("futex", (1, 137, 0, 0x7FFF0000), True),
        ("futex", (1, 129, 1, 7), False),  # FUTEX_WAKE: the fourth argument is no time
        ("poll", (1, 2, 0xFFFFFFFF), False),
        ("poll", (1, 2, 1000), True),
        ("epoll_wait", (4, 1, 64, 0xFFFFFFFFFFFFFFFF), False),
        ("epoll_wait", (4, 1, 64, 0), True),
        ("pselect6", (4, 1, 0, 0, 0), False),
        ("pselect6", (4, 1, 0, 0, 0x7FFF0000), True),
        ("ppoll", (1, 2, 0x7FFF0000), True),
        ("epoll_pwait2", (4, 1, 64, 0), False),
        ("clock_nanosleep", (), True),
        ("read", (0, 1, 1), False),
        (None, (), False),
    ],
)
def test_whether_a_call_ends_by_the_clock_is_read_from_its_arguments(
    call: str | None, args: tuple[int, ...], is_clocked: bool
) -> None:
    assert wakes_by_clock(call, args) is is_clocked
