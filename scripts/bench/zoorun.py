"""One program of the zoo in a directory of its own, with its standard input and whom it needs outside; nobody is left over."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(PROJECT / "scripts"), str(PROJECT / "tests")]

# Neither directory is a package.
import environments  # noqa: E402
from zoo_reading import Program  # noqa: E402

BUSY_FACTOR = 6
"""Busy timeout in stall timeouts: the silent healthy programs compute for three and must live."""
START_S = 45.0
"""What the start of a program may take at most: torch and transformers on two busy cores."""


class Run:
    """One program in its own directory, with whom it needs outside.

    Args:
        program: What to run.
        stall_s: Stall timeout, seconds.
        place: An empty directory.
        attempt: Number of the attempt that the program is told when it runs alone.
    """

    def __init__(self, program: Program, stall_s: float, place: Path, attempt: int | None = None) -> None:
        self.program, self.stall_s, self.place, self.mark = program, stall_s, place, uuid.uuid4().hex
        (place / "zoo").mkdir(parents=True)
        clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONUNBUFFERED", "ZOO_HANG")}
        self.environment = {
            **clean,
            "ZOO_STALL": str(stall_s),
            "ZOO_LIMIT": str(int(self.limit_s + 60)),
            "ZOO_DIR": str(place / "zoo"),
            "XDG_STATE_HOME": str(place / "state"),
        }
        if attempt is not None:
            self.environment |= {"UNSLOTH_WATCH_ATTEMPT": str(attempt), "ZOO_HANG": "first"}
        python = str(environments.python_of("modern")) if program.needs else sys.executable
        self.command = [python, str(program.path)]
        self._helper: subprocess.Popen[bytes] | None = None
        self._master: int | None = None

    @property
    def limit_s(self) -> float:
        """Seconds after which the run is ended from here."""
        if not self.program.is_hang:
            return 3 * self.program.duration_s(self.stall_s) + START_S + 3 * self.stall_s
        factor = {"stall": 2, "rhythm": 3, "busy": BUSY_FACTOR + 1}[self.program.timeouts]
        return START_S + factor * self.stall_s + 15

    def start(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Start a command with the program's standard input; its output goes to ``printed`` in the run's directory."""
        environment = dict(self.environment)
        if self.program.outside:
            self._start_outside()
            environment["ZOO_OUTSIDE"] = "1"
        environment["ZOO_RUN"] = self.mark
        with (self.place / "printed").open("wb") as printed, (self.place / "said").open("wb") as said:
            if self.program.stdin == "tty":
                return self._start_on_terminal(command, environment)
            stdin = subprocess.PIPE if self.program.stdin == "open-pipe" else subprocess.DEVNULL
            return subprocess.Popen(
                command, stdin=stdin, stdout=printed, stderr=said, env=environment, cwd=self.place, start_new_session=True
            )

    def _start_on_terminal(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        self._master, slave = pty.openpty()
        # setsid makes the terminal the controlling one, as for a job that a person starts.
        process = subprocess.Popen(
            ["setsid", "-c", *command], stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=self.place
        )
        os.close(slave)
        threading.Thread(target=self._read_terminal, args=(self._master,), daemon=True).start()
        return process

    def _read_terminal(self, master: int) -> None:
        # EIO says that the last process has left the terminal.
        with (self.place / "printed").open("wb", buffering=0) as printed, contextlib.suppress(OSError):
            while data := os.read(master, 65536):
                printed.write(data)

    def _start_outside(self) -> None:
        outside = self.program.outside
        helper = [
            sys.executable,
            "-S",
            str(self.program.path.with_name("outside.py")),
            *outside[:-1],
            str(self.place / "zoo" / outside[-1]),
        ]
        self._helper = subprocess.Popen(helper, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=self.environment)
        assert self._helper.stdout is not None
        if self._helper.stdout.readline() != b"ready\n":
            raise RuntimeError(f"{' '.join(helper)} did not start")

    def printed(self) -> str:
        """Return what was printed so far."""
        with contextlib.suppress(FileNotFoundError):
            return (self.place / "printed").read_text(errors="replace")
        return ""

    def hang_moment(self) -> float | None:
        """Return the moment that the program printed, on the monotonic clock; None where it printed none."""
        found = re.search(r"ZOO HANG (\d+\.\d+)", self.printed())
        return float(found[1]) if found else None

    def members(self) -> dict[int, str]:
        """Return PID and command of every process that carries this run's mark."""
        found = {}
        wanted = f"ZOO_RUN={self.mark}".encode()
        for entry in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if entry.isdigit() and wanted in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                    found[int(entry)] = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return found

    def close(self, process: subprocess.Popen[bytes]) -> tuple[str, ...]:
        """End whatever is left; return the commands of what was left."""
        # Whoever is about to end (a guardian, a reaped child) gets a moment.
        deadline = time.monotonic() + 3
        while (left := self.members()) and time.monotonic() < deadline and process.poll() is not None:
            time.sleep(0.1)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
        if self._helper is not None:
            self._helper.kill()
            self._helper.communicate()
        if self._master is not None:
            os.close(self._master)
        return tuple(left.values())


def suspend(run: Run, stall_s: float) -> None:
    """Stop the supervisor and all below it for two stall timeouts, one after the start."""
    time.sleep(stall_s)
    stopped = list(run.members())
    for number, pause_s in ((signal.SIGSTOP, 2 * stall_s), (signal.SIGCONT, 0)):
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        time.sleep(pause_s)


def tail(run: Run) -> str:
    """Return the last words of a run."""
    with contextlib.suppress(FileNotFoundError):
        said = (run.place / "said").read_text(errors="replace").strip()
        return " / ".join([*run.printed().splitlines()[-1:], *said.splitlines()[-2:]])[-300:]
    return ""
