"""Real commands under a real guardian."""

from __future__ import annotations

import os
import select
import sys
import time

from unsloth_watch.act.exits import Exited
from unsloth_watch.act.guardian import read_stat
from unsloth_watch.act.launch import Guardian, Started
from waiting import until

PYTHON = [sys.executable, "-I", "-S", "-c"]


class Job:
    """A guardian, what it runs, and the pipe that everybody in the tree holds open: its end of file proves that all are dead."""

    def __init__(self) -> None:
        self.guardian = Guardian.spawn()
        self.output, self._writer = os.pipe()
        self._buffer = b""

    def start(self, *argv: str, **options) -> Started:
        options.setdefault("environment", dict(os.environ))
        options.setdefault("cwd", "/")
        null = os.open(os.devnull, os.O_RDWR)
        try:
            return self.guardian.start(argv, stdin_fd=null, stdout_fd=self._writer, stderr_fd=2, **options)
        finally:
            os.close(null)

    def python(self, code: str, *argv: str, **options) -> Started:
        return self.start(*PYTHON, code, *argv, **options)

    def run(self, *argv: str, **options) -> tuple[bytes, int]:
        """Run to the end; returns its output and wait status."""
        started = self.start(*argv, **options)
        end = self.wait()
        assert end.pid == started.pid
        return self.drain(), end.status

    def wait(self) -> Exited:
        return until(self.guardian.exits, seconds=20)[0]

    def line(self, seconds: float = 20) -> str:
        """Wait for one line of the job."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            assert select.select([self.output], [], [], max(0, deadline - time.monotonic()))[0], f"only {self._buffer!r} came"
            self._buffer += os.read(self.output, 65536)
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line.decode()

    def drain(self) -> bytes:
        """Return what an ended job has printed."""
        found, self._buffer = self._buffer, b""
        while select.select([self.output], [], [], 0)[0] and (part := os.read(self.output, 65536)):
            found += part
        return found

    def wait_for_nobody(self, seconds: float = 20) -> None:
        """Wait until no process holds the pipe any more."""
        if self._writer != -1:
            os.close(self._writer)
            self._writer = -1
        read_to_end(self.output, seconds)

    def close(self) -> None:
        self.guardian.close()
        for fd in (self.output, self._writer):
            if fd != -1:
                os.close(fd)


def state_of(pid: int) -> str | None:
    """Read the state letter of a process's main thread; None when it is gone."""
    fields = read_stat(pid)
    return fields[0].decode() if fields else None


def read_to_end(fd: int, seconds: float = 20) -> bytes:
    """Read until the last writer is gone; fail when one is left."""
    deadline = time.monotonic() + seconds
    found = []
    while select.select([fd], [], [], max(0, deadline - time.monotonic()))[0]:
        part = os.read(fd, 1 << 16)
        if not part:
            return b"".join(found)
        found.append(part)
    msg = f"someone still holds the pipe after {seconds} s; read {b''.join(found)[-200:]!r}"
    raise AssertionError(msg)
