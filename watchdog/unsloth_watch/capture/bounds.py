"""Time-outs that the program itself gives to a library's loop: after them it goes on, and may have something better to do.

torch's ``_try_get_data()`` is called for ever by the loader itself, but once with the ``timeout=`` of a ``DataLoader``, and then an
error is raised, which the program may catch to leave that item out. The stack is the same for both; the text of the call is not.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from unsloth_watch.capture.source import read_source
from unsloth_watch.model.evidence import ProcessEvidence, ThreadEvidence
from unsloth_watch.waits.loops import Loop
from unsloth_watch.waits.wait import find_loop, find_loop_depth


def mark_bounds(processes: Sequence[ProcessEvidence]) -> tuple[ProcessEvidence, ...]:
    """Return the processes with the threads marked whose loop is not seen to be called without a time-out of the caller's.

    It reads the sources of threads in such loops, so call it within a deadline. A thread whose source cannot be read is marked.
    """
    files: dict[str, list[str]] = {}
    return tuple(
        msgspec.structs.replace(process, threads=tuple(_mark(thread, files) for thread in process.threads))
        if any(find_loop(thread) is Loop.POLL for thread in process.threads)
        else process
        for process in processes
    )


def _mark(thread: ThreadEvidence, files: dict[str, list[str]]) -> ThreadEvidence:
    depth = find_loop_depth(thread)
    if depth is None or find_loop(thread) is not Loop.POLL:
        return thread
    name = thread.frames[depth].function.rpartition(".")[2]
    caller = next((frame for frame in thread.frames[depth + 1 :] if not frame.is_native), None)
    text = read_source(caller.file, files) if caller is not None else []
    line = text[caller.line - 1] if caller is not None and 0 < caller.line <= len(text) else ""
    return thread if f"{name}()" in line else msgspec.structs.replace(thread, is_bounded=True)
