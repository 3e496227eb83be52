"""pystack, where it is installed: a further rung that shows threads without Python frames; it pauses the process for 0.1–1.1 s."""

from __future__ import annotations

import os
import re
import shutil
import sys

from unsloth_watch.capture.command import run_command
from unsloth_watch.capture.deadline import DeadlineError
from unsloth_watch.capture.dump import Dump, DumpFailure, Failure, PythonThread
from unsloth_watch.capture.text import decode
from unsloth_watch.model.evidence import Frame

_THREAD = re.compile(r"^Traceback for thread (\d+) \((.*)\) \[(.*)\] \(most recent call last\):$")
_FRAME = re.compile(r'^ {4}\((Python|C)\) File "(.*)", line (\d+), in (.+)$')


def find_binary(*, executable: str = sys.executable, path: str | None = None) -> str | None:
    """Return the absolute path of pystack, beside the interpreter or on ``path`` (``$PATH``); it is optional, so None is usual."""
    beside = os.path.join(os.path.dirname(os.path.abspath(executable)), "pystack")
    return beside if os.access(beside, os.X_OK) else shutil.which("pystack", path=path)


def dump(pid: int, deadline_s: float, *, binary: str | None = None) -> Dump | DumpFailure:
    """Return Python and native stacks of every thread of a process, those without a Python state included.

    Args:
        pid: Process; must have no thread in D state, as pystack attaches to all of them.
        deadline_s: Seconds; 1.2 s were needed for 200 threads.
        binary: pystack; None to look for it.
    """
    binary = binary or find_binary()
    if binary is None:
        return DumpFailure(Failure.NO_TOOL, "pystack is not installed")
    try:
        outcome = run_command([binary, "remote", "--no-color", "--native-all", str(pid)], deadline_s)
    except (OSError, DeadlineError) as error:
        return DumpFailure(Failure.NO_TOOL, f"pystack could not be started ({error})")
    if outcome.timed_out or outcome.is_truncated:
        return DumpFailure(Failure.LATE, f"pystack was killed after {outcome.seconds:.3g} s", was_killed=True)
    if outcome.rc != 0:
        return DumpFailure(Failure.OTHER, f"pystack: {decode(outcome.stderr or outcome.stdout).strip()[:200]}")
    return parse_text(decode(outcome.stdout), outcome.seconds)


def parse_text(text: str, seconds: float = 0.0) -> Dump | DumpFailure:
    """Return the stacks in what ``pystack remote`` 1.x prints; source lines and locals between the frames are passed over."""
    threads: list[tuple[int, str, list[Frame]]] = []
    for line in text.splitlines():
        if match := _THREAD.match(line):
            threads.append((int(match[1]), match[3], []))
        elif threads and (match := _FRAME.match(line)):
            threads[-1][2].append(_build_frame(match))
    if not any(frames for _, _, frames in threads):
        return DumpFailure(Failure.GARBAGE, "pystack's answer has no frame in any thread")
    found = tuple(
        PythonThread(
            tid=tid,
            name="",
            frames=tuple(reversed(frames)),  # it prints the outermost first
            has_gil="Has the GIL" in remarks,
            is_active=False,
        )
        for tid, remarks, frames in threads
    )
    return Dump(found, "pystack", seconds=seconds)


def _build_frame(match: re.Match[str]) -> Frame:
    kind, file, line, function = match.groups()
    if kind == "Python":
        return Frame(function, file, int(line))
    symbol, _, library = function.removesuffix(")").rpartition(" (")
    return Frame(symbol or function, library or file, 0, is_native=True)
