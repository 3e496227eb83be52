"""Runs to which something is done: started with a descriptor by which the last survivor is noticed, and asked for their state."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from act.jobs import read_to_end, state_of
from unsloth_watch.act.guardian import children_of, read_start_ticks
from unsloth_watch.errors import WatchError
from unsloth_watch.supervise.request import ask
from waiting import until
from watched import PROGRAM, Watched

FAST = ("--interval", "0.1s", "--stall-timeout", "2s", "--grace", "0.5s", "--cache", "keep")

# Hangs in its first attempt, deaf to INT and TERM, with a child that has left its session; goes on for a while in the second.
HANGS_ONCE = """
import os, signal, sys, time
first = os.environ["UNSLOTH_WATCH_ATTEMPT"] == "1"
if first:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        os.write(1, b"ready\\n")
        os.execv("/bin/sleep", ["sleep", "600"])
    time.sleep(600)
print("second", flush=True)
sys.exit(4)
"""


class Faulted:
    """One run.

    Args:
        place: An empty directory.
        code: Python program that is supervised.
        *arguments: Its arguments.
        options: Options of the supervisor.
        environment: Further variables for it.
        program: The words that start the supervisor.
    """

    def __init__(
        self,
        place: Path,
        code: str = HANGS_ONCE,
        *arguments: str,
        options: tuple[str, ...] = FAST,
        environment: dict[str, str] | None = None,
        program: list[str] = PROGRAM,
    ) -> None:
        place.mkdir(exist_ok=True)
        self.watched = Watched(place)
        self.directory = self.watched.directory
        self._life, life = os.pipe()
        words = [*program, "--run-dir", str(self.directory), *options, "--", sys.executable, self.watched.script(code), *arguments]
        with (place / "stderr").open("wb") as errors:
            self.process = subprocess.Popen(
                words, cwd=place, env=self.watched.environment(**(environment or {})), pass_fds=[life],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip
        os.close(life)

    @property
    def said(self) -> str:
        """What the supervisor and the command said on stderr."""
        return (self.watched.place / "stderr").read_text(errors="replace")

    @property
    def phase(self) -> str | None:
        """What the run is doing now, in the supervisor's own word; None while it does not answer."""
        try:
            live = ask(str(self.directory), "show")["live"]
        except (WatchError, FileNotFoundError):
            return None
        assert isinstance(live, dict)
        return str(live["phase"])

    def await_line(self, line: bytes) -> None:
        """Read the command's output up to a line."""
        assert self.process.stdout is not None
        for found in self.process.stdout:
            if found == line:
                return
        raise AssertionError(f"the output ended before {line!r}: {self.said}")

    def await_phase(self, phase: str) -> None:
        """Wait until the run is in this phase."""
        until(lambda: self.phase == phase or self.process.poll() is not None, seconds=60)
        assert self.process.poll() is None, self.said

    @property
    def guardian(self) -> int:
        """PID of the guardian."""
        return next(pid for pid in children_of(self.process.pid) if Path(f"/proc/{pid}/comm").read_text() == "unsloth-guard\n")

    def stop(self, pid: int) -> None:
        """Stop a process, and see it stopped."""
        os.kill(pid, signal.SIGSTOP)
        until(lambda: state_of(pid) == "T")

    def events(self, name: str) -> list[dict[str, object]]:
        """Return the events of a name."""
        return self.watched.events(name)

    def end(self, seconds: float = 60) -> int:
        """Wait for its end and for that of everybody else; return the exit status."""
        assert self.process.stdout is not None
        try:
            self.process.stdout.read()
            status = self.process.wait(seconds)
            read_to_end(self._life)
        finally:
            self.close()
        return status

    def close(self) -> None:
        """End it, whatever it is doing."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        if self._life != -1:
            os.close(self._life)
            self._life = -1


def identity(pid: int) -> tuple[int, int]:
    """Return PID and start time of a living process."""
    start = read_start_ticks(pid)
    assert start is not None
    return pid, start
