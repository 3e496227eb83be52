"""Looks: cheap glances at a stack that never pause the process, and a signature to compare them by."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Sequence

from unsloth_watch.capture.deadline import Deadline
from unsloth_watch.capture.dump import Dump, PythonThread
from unsloth_watch.capture.pool import spread
from unsloth_watch.capture.process import read_start
from unsloth_watch.capture.pyspy import dump
from unsloth_watch.model.evidence import Frame
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.model.sample import Look

TOP_FRAMES = 6
"""Frames kept of a look."""


def stack_signature(frames: Iterable[Frame]) -> str:
    """Return 8 hex digits that are equal for equal stacks by function, file and line.

    Native frames count only where there are no others, so that a stack has one signature whichever rung read it. CRC-32 rather
    than a cryptographic hash: nobody attacks it, and ``hashlib`` would cost the supervisor 2 MB of OpenSSL.
    """
    frames = tuple(frames)
    counted = [frame for frame in frames if not frame.is_native] or frames
    text = "\n".join(f"{frame.function}\0{frame.file}\0{frame.line}" for frame in counted)
    return f"{zlib.crc32(text.encode('utf-8', 'backslashreplace')):08x}"


def look(ref: ProcessRef, deadline_s: float = 2.0, *, binary: str | None = None) -> Look | None:
    """Return a glance at a process's main thread, or None where it could not be had.

    Args:
        ref: Process.
        deadline_s: Seconds; it takes about 25 ms, 10 ms of them CPU.
        binary: py-spy; None to look for it.
    """
    answer = dump(ref.pid, "nonblocking", deadline_s, binary=binary)
    # the PID may have changed hands before or during the dump, which knows no start times
    if not isinstance(answer, Dump) or read_start(ref.pid) != ref.start_ticks:
        return None
    thread = _find_main(answer, ref.pid)
    if thread is None or not thread.frames:
        return None
    return Look(ref, stack_signature(thread.frames), tuple(str(frame) for frame in thread.frames[:TOP_FRAMES]), thread.is_active)


def looks(refs: Sequence[ProcessRef], deadline_s: float = 2.0, *, binary: str | None = None) -> tuple[Look, ...]:
    """Return the looks that could be had, in the order of ``refs``; a few at a time, all within ``deadline_s``."""
    deadline = Deadline(deadline_s)
    results = spread(lambda ref: look(ref, deadline.left(), binary=binary), refs, deadline)
    return tuple(result for result in results if isinstance(result, Look))


def burst(refs: Sequence[ProcessRef], count: int, apart_s: float, *, binary: str | None = None) -> tuple[Look, ...]:
    """Return the looks of several rounds, ``apart_s`` seconds from one's end to the next; it sleeps in between."""
    found = looks(refs, binary=binary)
    for _ in range(count - 1):
        time.sleep(apart_s)
        found += looks(refs, binary=binary)
    return found


def _find_main(answer: Dump, pid: int) -> PythonThread | None:
    """Return the main thread: by its id, by its name (the id is another in a PID namespace), or the only one there is."""
    by_id = next((thread for thread in answer.threads if thread.tid == pid), None)
    by_name = next((thread for thread in answer.threads if thread.name == "MainThread"), None)
    return by_id or by_name or (answer.threads[0] if len(answer.threads) == 1 else None)
