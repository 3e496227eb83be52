"""The loops of the program's text around the line where a thread is: what it tries again and again, and until when.

A poll loop sleeps for all but microseconds of its time, so that the path or port which it asks for is in none of its system calls.
The text says it: ``while not marker.exists()``. Values of variables are not read.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

import msgspec

from unsloth_watch.capture.source import MAX_TEXT, find_function, read_source
from unsloth_watch.model.evidence import Frame, ProcessEvidence, SourceLoop, ThreadEvidence
from unsloth_watch.waits.place import is_library

MAX_LOOPS = 3
"""Loops kept of a thread."""
MAX_CALLS = 8
"""Calls kept of a loop."""
_DEPTH = 24
# Frames looked at from the inside: below a download's loop there are about 20 of httpx, ssl and socket.
_Loop = ast.While | ast.For | ast.AsyncFor


def annotate_loops(processes: Sequence[ProcessEvidence]) -> tuple[ProcessEvidence, ...]:
    """Return the processes with the loops that their threads are in; a thread beside the main one has to wake by the clock."""
    text = _Text({}, {})
    return tuple(
        msgspec.structs.replace(process, threads=tuple(_annotate(thread, text) for thread in process.threads))
        for process in processes
    )


class _Text(msgspec.Struct):
    """What was read so far: workers of one job stand on the same lines.

    Attributes:
        files: Lines by path.
        loops: Loops by path and line; None where there is none.
    """

    files: dict[str, list[str]]
    loops: dict[tuple[str, int], SourceLoop | None]

    def find(self, frame: Frame) -> SourceLoop | None:
        """Return the loop around a frame's line."""
        place = frame.file, frame.line
        if place not in self.loops:
            self.loops[place] = find_loop(read_source(frame.file, self.files), frame.line)
        return self.loops[place]


def _annotate(thread: ThreadEvidence, text: _Text) -> ThreadEvidence:
    if thread.call == "futex" and not thread.is_main and not (len(thread.syscall_args) > 3 and thread.syscall_args[3]):
        return thread
    found = tuple(_find_all(thread.frames, text, is_running=thread.state == "R"))
    return msgspec.structs.replace(thread, loops=found) if found else thread


def _find_all(frames: Sequence[Frame], text: _Text, *, is_running: bool) -> Iterator[SourceLoop]:
    """Yield the innermost loops; of a thread that computes also the user's own one, however deep the library below it is."""
    count = 0
    for depth, frame in enumerate(frames):
        is_deep = depth >= _DEPTH or count >= MAX_LOOPS
        if is_deep and not is_running:
            return
        if frame.is_native or not frame.line or not frame.file.startswith("/") or (is_deep and is_library(frame.file)):
            continue
        loop = text.find(frame)
        if loop is not None:
            yield msgspec.structs.replace(loop, depth=depth)
            count += 1
            if is_deep:
                return


def find_loop(text: Sequence[str], line: int, depth: int = 0) -> SourceLoop | None:
    """Return the innermost loop of the function around a line; None where there is none, or no such line.

    Args:
        text: Lines of the file.
        line: Line, from 1.
        depth: Place of the frame in its stack, for the answer.
    """
    if not 1 <= line <= len(text):
        return None
    start, end = find_function(text, line)
    first = start if start is not None else 0
    block = "\n".join(text[first : end if start is not None else len(text)])
    try:
        # A function of a class is indented: a block around it makes it a program of its own.
        tree = ast.parse(f"if True:\n{block}") if block[:1] in " \t" else ast.parse(block)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    at = line - first + (1 if block[:1] in " \t" else 0)
    around = [node for node in ast.walk(tree) if isinstance(node, _Loop) and node.lineno <= at <= (node.end_lineno or node.lineno)]
    if not around:
        return None
    loop = max(around, key=lambda node: node.lineno)
    return SourceLoop(depth, _head(loop), text[line - 1].strip()[:MAX_TEXT], tuple(_list_calls(loop)))


def _head(loop: ast.While | ast.For | ast.AsyncFor) -> str:
    if isinstance(loop, ast.While):
        return f"while {ast.unparse(loop.test)}"[:MAX_TEXT]
    return f"for {ast.unparse(loop.target)} in {ast.unparse(loop.iter)}"[:MAX_TEXT]


def _list_calls(loop: ast.While | ast.For | ast.AsyncFor) -> Iterator[str]:
    """Yield the calls in a loop as they are written, those of its condition first, and outer ones before their arguments."""
    calls = [node for node in ast.walk(loop) if isinstance(node, ast.Call)]
    seen: dict[str, None] = {}
    for call in sorted(calls, key=lambda node: (node.lineno, node.col_offset, -(node.end_col_offset or 0))):
        seen[ast.unparse(call)[:MAX_TEXT]] = None
    yield from list(seen)[:MAX_CALLS]
