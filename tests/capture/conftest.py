"""Real processes in known waits: each says that it is ready, and each is ended and reaped."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unsloth_watch.capture.process import read_start
from unsloth_watch.capture.syscalls import name_syscall
from unsloth_watch.capture.waits import read_states, read_tasks
from unsloth_watch.model.process import ProcessRef
from waiting import SLEEPS, until


class Target:
    """A child that runs a Python program and has printed ``ready``."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.pid = process.pid
        start = read_start(process.pid)
        assert start is not None
        self.ref = ProcessRef(process.pid, start)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def await_call(self, *calls: str) -> None:
        """Return once a thread is blocked in one of these system calls."""
        until(lambda: any(name_syscall(task.syscall) in calls and task.state in "SD" for task in read_tasks(self.pid)))

    def rest(self) -> Target:
        """Return itself once it sleeps, past the write of its word and the first lines of its program."""
        self.await_call(*SLEEPS)
        return self

    def await_state(self, state: str) -> None:
        until(lambda: state in read_states(self.pid).values())

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        self.await_state("T")


Start = Callable[..., Target]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a Python program (or another command) that prints ``ready``."""
    targets: list[Target] = []

    def begin(program: str, *args: object, argv: list[str] | None = None, is_announced: bool = True) -> Target:
        command = argv or [sys.executable, "-u", "-c", program, *map(str, args)]
        target = Target(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True))
        targets.append(target)
        if is_announced:
            assert target.line() == "ready"
        return target

    yield begin
    for target in targets:
        try:
            os.killpg(target.pid, signal.SIGKILL)  # its own session: children of the target end with it
        except ProcessLookupError:
            assert target.process.poll() is not None
    for target in targets:  # only after all are killed: a traced process cannot be reaped before its tracer has ended
        with target.process:
            pass


@pytest.fixture
def fake_tool(tmp_path: Path) -> Callable[[str], str]:
    """Write a shell script that stands for a faulty py-spy; ``$PID`` in it is the process to be dumped."""

    def write(body: str) -> str:
        path = tmp_path / "py-spy"
        path.write_text(f"#!/bin/sh\nPID=$4\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return write
