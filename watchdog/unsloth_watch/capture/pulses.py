"""Pulses: threads of the program whose own text shows that they sleep, print or write something, and sleep again, for ever.

"Alive" printers, heartbeat files and memory logs share the memory of whoever hangs, so that nothing but their text can clear them.
What one round of such a loop does, every round does: that it woke nobody in the rounds that were seen is then true of all to come.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Sequence

import msgspec

from unsloth_watch.capture.pulsetext import is_pulse
from unsloth_watch.capture.source import MAX_FILE_BYTES
from unsloth_watch.capture.text import decode
from unsloth_watch.capture.waits import read_file
from unsloth_watch.model.evidence import Frame, ProcessEvidence, ThreadEvidence

_THREAD_FRAMES = ("run", "_bootstrap_inner", "_bootstrap")
_EVENT_FRAMES = ("wait", "wait")
# ``Condition.wait`` in ``Event.wait``: a condition's own wait is one frame only, and in a barrier's the second is ``_wait``.
_LATEST_S = 1.0
# A script may be written in the same second in which it is started, and start times are rounded.


def mark_pulses(processes: Sequence[ProcessEvidence]) -> tuple[ProcessEvidence, ...]:
    """Return the processes with their pulses marked; it reads the sources of sleeping threads, so call it within a deadline."""
    trees: dict[str, ast.Module | None] = {}
    return tuple(
        msgspec.structs.replace(process, threads=tuple(_mark(thread, process, trees) for thread in process.threads))
        if any(_find_place(thread) is not None for thread in process.threads)
        else process
        for process in processes
    )


def _mark(thread: ThreadEvidence, process: ProcessEvidence, trees: dict[str, ast.Module | None]) -> ThreadEvidence:
    place = _find_place(thread)
    if place is None:
        return thread
    frame, is_event = place
    if frame.file not in trees:
        trees[frame.file] = read_tree(frame.file, process.ref.start_ticks)
    tree = trees[frame.file]
    is_marked = tree is not None and is_pulse(tree, frame.line, is_event=is_event)
    return msgspec.structs.replace(thread, is_pulse=True) if is_marked else thread


def _find_place(thread: ThreadEvidence) -> tuple[Frame, bool] | None:
    """Return where a thread sleeps in the function that it was started with, and whether by an event's ``wait``; None for others.

    From there, there is nowhere else to go back to.
    """
    frames = [frame for frame in thread.frames if not frame.is_native]
    is_event = _are_thread_frames(frames[: len(_EVENT_FRAMES)], _EVENT_FRAMES)
    frames = frames[len(_EVENT_FRAMES) :] if is_event else frames
    if thread.is_main or not frames or not frames[0].file.startswith("/") or frames[0].file.endswith("/threading.py"):
        return None
    is_method = frames[0].function.rpartition(".")[2] == "run" and _are_thread_frames(frames[1:], _THREAD_FRAMES[1:])
    return (frames[0], is_event) if is_method or _are_thread_frames(frames[1:], _THREAD_FRAMES) else None


def _are_thread_frames(frames: Sequence[Frame], names: Sequence[str]) -> bool:
    """Whether some frames are functions of Python's ``threading`` with such names, one for one."""
    return len(frames) == len(names) and all(
        frame.file.endswith("/threading.py") and frame.function.rpartition(".")[2] == name
        for frame, name in zip(frames, names, strict=True)
    )


def read_tree(path: str, start_ticks: int) -> ast.Module | None:
    """Return a source file's syntax tree; None where it cannot be read, or changed after the process had started."""
    try:
        boot = next(int(line.split()[1]) for line in decode(read_file("/proc/stat")).splitlines() if line.startswith("btime "))
        if not os.path.isfile(path) or os.stat(path).st_mtime > boot + start_ticks / os.sysconf("SC_CLK_TCK") + _LATEST_S:
            return None
        with open(path, "rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
        return ast.parse(raw) if len(raw) <= MAX_FILE_BYTES else None
    except (OSError, SyntaxError, ValueError, RecursionError, StopIteration):
        return None
