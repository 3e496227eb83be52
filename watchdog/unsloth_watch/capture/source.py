"""The source lines of blocked threads: which lock is asked for, and which are held further up the stack.

No stack says which lock a thread waits for or has. The text does: ``with disk:`` at the innermost line, ``with model:`` around the
call that led there. Only the enclosing function is parsed, so that a file of 5,000 lines costs no more than a short one.
"""

from __future__ import annotations

import ast
import os
import re
import textwrap
from collections.abc import Iterator, Sequence

import msgspec

from unsloth_watch.model.evidence import Frame, ProcessEvidence, SourceLine, ThreadEvidence

MAX_FILE_BYTES = 4 << 20
"""A larger file is no source that people wrote."""
MAX_FILES = 200
"""Files that are read at most; a process of Unsloth shows about 40 different ones in all its stacks."""
MAX_TEXT = 120
"""Characters of a line that are kept."""
ACQUIRES = ("acquire", "__enter__")
"""Functions that take a lock for their caller, so that the caller's line says which."""
_INDENT = re.compile(r"[ \t]*")
_DEFINITION = re.compile(r"[ \t]*(?:async[ \t]+)?def[ \t]+(\w+)")
_LIBRARY = re.compile(r"/(?:site|dist)-packages/|/lib(?:64)?/python\d")
_FUTEX = "futex"


def annotate(processes: Sequence[ProcessEvidence]) -> tuple[ProcessEvidence, ...]:
    """Return the processes with the source lines of their threads, where one of their threads waits for memory.

    Where that memory is shared, the holder may be any process of the job, and wait for something else.
    """
    files: dict[str, list[str]] = {}
    is_shared = any(thread.futex and thread.frames for process in processes for thread in process.threads)
    return tuple(
        msgspec.structs.replace(process, threads=tuple(_annotate(thread, files) for thread in process.threads))
        if is_shared or any(thread.call == _FUTEX and thread.frames for thread in process.threads)
        else process
        for process in processes
    )


def _annotate(thread: ThreadEvidence, files: dict[str, list[str]]) -> ThreadEvidence:
    found = tuple(_read_lines(thread.frames, files))
    return msgspec.structs.replace(thread, lines=found) if found else thread


def _read_lines(frames: Sequence[Frame], files: dict[str, list[str]]) -> Iterator[SourceLine]:
    """Yield the lines of the user's own frames, of the innermost Python frame, and of library frames that hold a lock."""
    is_innermost = True
    for depth, frame in enumerate(frames):
        if frame.is_native or not frame.line or not frame.file.startswith("/"):
            continue
        text = read_source(frame.file, files)
        if frame.line <= len(text):
            line = text[frame.line - 1].strip()[:MAX_TEXT]
            holds = find_holds(text, frame.line, frame.function.rpartition(".")[2], is_asking=is_innermost)
            # None: the text is not that of the running function, because the file was edited since.
            if holds is not None and (holds or is_innermost or not _LIBRARY.search(frame.file)):
                yield SourceLine(depth, line, holds)
        # A lock with a method of its own is asked for by whoever calls that: ``Handler.acquire`` of logging.
        is_innermost = is_innermost and frame.function.rpartition(".")[2] in ACQUIRES


def read_source(path: str, files: dict[str, list[str]]) -> list[str]:
    """Return the lines of a file, kept in ``files``; none where it cannot be read or is no source."""
    if path not in files and len(files) < MAX_FILES:
        files[path] = []
        raw = b""
        try:
            if os.path.isfile(path):  # ``python /dev/stdin``: whoever reads a pipe or terminal takes it from the job
                with open(path, "rb") as stream:
                    raw = stream.read(MAX_FILE_BYTES + 1)
        except OSError:
            pass  # gone, or in a container's own file system: the stack alone has to do
        if len(raw) <= MAX_FILE_BYTES:
            files[path] = raw.decode("utf-8", "replace").split("\n")
    return files.get(path, [])


def find_holds(text: Sequence[str], line: int, function: str, *, is_asking: bool = False) -> tuple[str, ...] | None:
    """Return what a function holds at a line, outermost first; None where the line does not belong to that function.

    Args:
        text: Lines of the file.
        line: Line, from 1.
        function: Plain name of the function; ``<module>`` and other names in angle brackets are looked at where they stand.
        is_asking: Whether nothing was called from that line: of ``with lock: body`` in one line the lock is asked for, not held.

    An ``acquire()`` counts from its line to the next ``release()`` of the same expression: not exact for branches, so a rule that
    uses it has to be content with less than certainty.
    """
    start, end = find_function(text, line)
    name = _DEFINITION.match(text[start]) if start is not None else None
    if not function.startswith("<") and (name is None or name[1] != function):
        return None
    first, last = (0, len(text)) if start is None else (start, end)
    try:
        tree = ast.parse(textwrap.dedent("\n".join(text[first:last])))
    except (SyntaxError, ValueError, RecursionError):
        return ()
    at = line - first
    held: dict[str, None] = {}
    for node in _walk_own(tree):
        if not isinstance(node, ast.With | ast.AsyncWith) or not node.body[0].lineno <= at <= (node.end_lineno or at):
            continue
        if not (is_asking and node.lineno == at):
            held.update(dict.fromkeys(ast.unparse(item.context_expr) for item in node.items))
    for name_of, is_taken in _list_calls(tree, at):
        if is_taken:
            held[name_of] = None
        else:
            held.pop(name_of, None)
    return tuple(held)


def _walk_own(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a block from the outside to the inside, without the bodies of functions within it but the first."""
    body = getattr(tree, "body", [])
    if len(body) == 1 and isinstance(body[0], ast.FunctionDef | ast.AsyncFunctionDef):
        queue: list[ast.AST] = list(body[0].body)
    else:
        queue = list(body)
    while queue:
        node = queue.pop(0)
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            queue.extend(ast.iter_child_nodes(node))


def _list_calls(tree: ast.AST, at: int) -> Iterator[tuple[str, bool]]:
    """Yield ``X.acquire()`` (True) and ``X.release()`` (False) before a line, in the order of the lines."""
    found: list[tuple[int, str, bool]] = []
    for node in _walk_own(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.lineno >= at:
            continue
        if node.func.attr in ("acquire", "release"):
            found.append((node.lineno, ast.unparse(node.func.value), node.func.attr == "acquire"))
    for _, name, is_taken in sorted(found):
        yield name, is_taken


def find_function(text: Sequence[str], line: int) -> tuple[int | None, int]:
    """Return the first line, from 0, of the function around a line and the one after its last; None for code of the module."""
    depth = _indent(text[line - 1])
    start = None
    for number in range(line - 1, -1, -1):
        row = text[number]
        if not row.strip() or row.lstrip().startswith("#"):
            continue
        if number == line - 1 or _indent(row) < depth:
            depth = min(depth, _indent(row))
            if _DEFINITION.match(row):
                start = number
                break
    if start is None:
        return None, len(text)
    border = _indent(text[start])
    for number in range(start + 1, len(text)):
        row = text[number]
        if number >= line and row.strip() and _indent(row) <= border and not row.lstrip().startswith((")", "]", "}", "#")):
            return start, number
    return start, len(text)


def _indent(row: str) -> int:
    match = _INDENT.match(row)
    return len(match[0].expandtabs()) if match else 0
