"""``stacks/PID.txt``: one process as text, in the shape that readers of py-spy know."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from unsloth_watch.model.evidence import ProcessEvidence, ThreadEvidence


def render_stacks(process: ProcessEvidence) -> str:
    """Return every thread of one process, innermost frame first. Redact afterwards."""
    return "\n".join(_list_lines(process)) + "\n"


def _list_lines(process: ProcessEvidence) -> Iterator[str]:
    yield f"Process {process.ref.pid}: {shlex.join(process.command) if process.command else process.executable or '?'}"
    if process.python_version:
        yield f"Python {process.python_version}" + (f" ({process.executable})" if process.executable else "")
    yield f"Parent {process.ppid}, state {process.state}, read by {process.stack_method or 'no method: no stack could be had'}"
    for phrase in process.missing:
        yield f"Missing: {phrase}"
    for thread in process.threads:
        yield ""
        yield from _list_thread(thread)


def _list_thread(thread: ThreadEvidence) -> Iterator[str]:
    marks = [thread.state or "state unknown"]
    if thread.has_gil:
        marks.append("holds the GIL")
    if thread.wait or thread.wait_channel:
        marks.append(thread.wait or f"in {thread.wait_channel}")
    yield f'Thread {thread.tid} ({", ".join(marks)}): "{thread.name}"'
    if not thread.frames:
        yield "    (no Python stack)"
    for frame in thread.frames:
        yield f"    {frame}"
        for name, value in (frame.locals or {}).items():
            yield f"        {name} = {value}"
