"""py-spy: found, run with a deadline, its failures classified."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from unsloth_watch.capture.command import Outcome, run_command
from unsloth_watch.capture.deadline import Deadline, DeadlineError
from unsloth_watch.capture.dump import Dump, DumpFailure, Failure, classify_failure, parse_dump
from unsloth_watch.capture.text import decode

Mode = Literal["plain", "native", "nonblocking"]

_OPTIONS: dict[Mode, tuple[str, ...]] = {"plain": (), "native": ("--native",), "nonblocking": ("--nonblocking",)}
_QUIET = ("RUST_BACKTRACE", "RUST_LIB_BACKTRACE")  # with these the words that tell failures apart drown in a backtrace
_guard = threading.Lock()
_busy: dict[int, tuple[threading.Lock, int]] = {}


def find_binary(*, executable: str = sys.executable, path: str | None = None) -> str | None:
    """Return the absolute path of py-spy: beside the interpreter first, as pip puts it there, then on ``path`` (``$PATH``)."""
    beside = os.path.join(os.path.dirname(os.path.abspath(executable)), "py-spy")
    if os.access(beside, os.X_OK):
        return beside
    found = shutil.which("py-spy", path=path)
    return None if found is None else os.path.abspath(found)


def dump(
    pid: int,
    mode: Mode,
    deadline_s: float,
    *,
    with_locals: bool = False,
    binary: str | None = None,
) -> Dump | DumpFailure:
    """Return the Python stacks of one process.

    Args:
        pid: Process; its children are not followed (``--subprocesses`` loses them without a word).
        mode: ``native`` and ``plain`` pause it for some ms and hang on a thread in D state; ``nonblocking`` never touches it.
        deadline_s: Seconds for waiting for another dump of the same process and for this one.
        with_locals: Also read local variables: they may hold secrets, and 200 threads are paused for about 90 ms.
        binary: py-spy; None to look for it.
    """
    binary = binary or find_binary()
    if binary is None:
        return DumpFailure(
            Failure.NO_TOOL,
            f"py-spy is neither beside {sys.executable} nor on PATH; install it with: {sys.executable} -m pip install py-spy",
        )
    argv = [binary, "dump", "--json", "--pid", str(pid), *_OPTIONS[mode]]
    if with_locals:
        argv.append("--locals")
    environment = {name: value for name, value in os.environ.items() if name not in _QUIET}
    deadline = Deadline(deadline_s)
    try:
        with _alone(pid, deadline):
            outcome = run_command(argv, deadline.left(), env=environment)
    except OSError as error:
        return DumpFailure(Failure.NO_TOOL, f"{binary} cannot be started ({error.strerror}); reinstall it with pip")
    except DeadlineError as error:
        return DumpFailure(Failure.LATE, f"py-spy could not be started in time ({error})")
    return _judge(outcome, mode)


def _judge(outcome: Outcome, mode: Mode) -> Dump | DumpFailure:
    """Return the stacks only where status, form and content agree: py-spy may print much and fail, or print nothing and succeed."""
    if outcome.timed_out:
        return DumpFailure(Failure.LATE, f"py-spy ({mode}) was killed after {outcome.seconds:.3g} s", was_killed=True)
    if outcome.is_truncated:
        return DumpFailure(
            Failure.GARBAGE, f"py-spy ({mode}) was killed after {len(outcome.stdout)} bytes of output", was_killed=True
        )
    if outcome.rc != 0:
        words = decode(outcome.stderr).strip()
        return DumpFailure(classify_failure(words), _first_line(words) or f"py-spy ended with status {outcome.rc} and no word")
    return parse_dump(outcome.stdout, mode, outcome.seconds)


def _first_line(words: str) -> str:
    """Return py-spy's reason in one line: ``Error: …`` and, where it gives one, ``Reason: …`` behind it."""
    lines = [line.strip() for line in words.splitlines()]
    error = next((line for line in lines if line.startswith("Error")), lines[0] if lines else "")
    reason = next((line for line in lines if line.startswith("Reason")), "")
    return " ".join(part for part in (error, reason) if part)[:400]


@contextmanager
def _alone(pid: int, deadline: Deadline) -> Iterator[None]:
    """Hold the right to dump this process: two tracers at once make one of them fail."""
    with _guard:
        lock, users = _busy.get(pid, (threading.Lock(), 0))
        _busy[pid] = (lock, users + 1)
    try:
        if not lock.acquire(timeout=deadline.left()):
            raise DeadlineError("another dump of the same process is still running")
        try:
            yield
        finally:
            lock.release()
    finally:
        with _guard:
            lock, users = _busy.pop(pid)
            if users > 1:
                _busy[pid] = (lock, users - 1)
