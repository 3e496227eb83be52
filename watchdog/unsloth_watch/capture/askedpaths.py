"""The path that a poll loop asks about. ``stat`` leaves no trace, so the one variable that the loop's own text names is read.

``while not path.is_dir()`` says which variable that is. py-spy gives its address without a pause; its text is read from the
process's memory: a ``str``, or the one that a ``pathlib`` object keeps of itself, which is the very string that ``stat`` got. No
other variable is looked at, and what is no plain text is left out.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Sequence

import msgspec

from unsloth_watch.capture.deadline import Deadline
from unsloth_watch.capture.dump import Dump
from unsloth_watch.capture.memory import read_memory, read_string
from unsloth_watch.capture.pool import spread
from unsloth_watch.capture.pyspy import dump
from unsloth_watch.model.evidence import Frame, ProcessEvidence, SourceLoop

MAX_PROCESSES = 4
"""Processes that are asked: the first poll in the tree is the one that matters."""
_DUMP_S = 3.0
# One takes 50 ms; more than a second was seen on two cores with a load of 8.
_LIMIT = 4096
# PATH_MAX: a longer text is no path.
_QUESTIONS = (
    re.compile(
        r"\b(?P<question>exists|lexists|isdir|isfile|getsize|getmtime|stat|lstat|listdir|scandir|access)\((?P<name>[A-Za-z_]\w*)[,)]"
    ),
    re.compile(r"(?<![\w.])(?P<name>[A-Za-z_]\w*)\.(?P<question>exists|is_dir|is_file|is_mount|is_symlink|stat|lstat|iterdir)\(\)"),
    # A lock that exists or not: a refused O_EXCL opens nothing. Libraries only log the name (filelock: ``lock_filename``).
    re.compile(r"\b(?P<question>open)\((?P<name>[A-Za-z_]\w*),[^)]*(?:O_EXCL|['\"]x)"),
    re.compile(r"(?P<question>)(?<![\w.'\"])(?P<name>(?:\w*_)?lock_?(?:file_?)?(?:name|path|file))(?=[,)])"),
)
_POINTER = 8
_HEAD = 16
# PyObject: reference count and type. PyTypeObject: one word more, then the name and the size of its objects. The same from 3.10 to
# 3.13 (Include/cpython/object.h).
_TYPE_NAME, _TYPE_SIZE = 24, 32
_TEXT_LENGTH, _TEXT, _TEXT_BEFORE_312 = 16, 40, 48
# PyASCIIObject: length, hash, state; until 3.11 a pointer to wide characters before the text.


def find_asked_paths(
    processes: Sequence[ProcessEvidence], deadline: Deadline, binary: str | None = None
) -> tuple[ProcessEvidence, ...]:
    """Return the processes with the paths that the loops of their main threads ask about.

    Args:
        processes: The job's processes, their loops known.
        deadline: Ends it all.
        binary: py-spy; None to look for it.
    """
    askers = [process for process in processes if any(map(name_variable, _sleeping_loops(process)))][:MAX_PROCESSES]
    patience = Deadline(deadline.left(_DUMP_S))
    answers = spread(lambda process: _ask(process, patience, binary), askers, patience)
    found = {process.ref: _conclude(process, answer) for process, answer in zip(askers, answers, strict=True)}
    return tuple(found.get(process.ref, process) for process in processes)


def name_variable(loop: SourceLoop) -> tuple[str, str] | None:
    """Return the variable with the path that a loop asks about, its condition first, and the function; None where none is named."""
    for text in (loop.header, *loop.calls):
        for pattern in _QUESTIONS:
            match = pattern.search(text)
            if match is not None:
                return match["name"], match["question"]
    return None


def read_path(pid: int, address: int, version: str) -> str | None:
    """Return the text of a ``str`` or ``pathlib`` object of another process; None where it is neither, or no plain ASCII.

    Args:
        pid: The process.
        address: Of the object.
        version: Its Python's version, ``3.11``.
    """
    name, size = _read_type(pid, address)
    if name == "str":
        return _read_text(pid, address, version)
    if name.rpartition(".")[2] != "PosixPath":
        return None
    slots = read_memory(pid, address + _HEAD, min(max(size - _HEAD, 0), 32 * _POINTER)) or b""
    pointers = (slot for (slot,) in struct.iter_unpack("=Q", slots[: len(slots) // _POINTER * _POINTER]) if slot)
    texts = {_read_text(pid, slot, version) for slot in pointers if _read_type(pid, slot)[0] == "str"}
    whole = texts - {None, "", "/"}  # the two others are its drive and its root
    return whole.pop() if len(whole) == 1 else None


def _sleeping_loops(process: ProcessEvidence) -> tuple[SourceLoop, ...]:
    thread = process.main_thread
    is_asleep = thread is not None and any("sleep(" in text for loop in thread.loops for text in (loop.line, *loop.calls))
    return thread.loops if thread is not None and is_asleep else ()


def _ask(process: ProcessEvidence, patience: Deadline, binary: str | None) -> ProcessEvidence | str:
    """Return the process with the paths that its loops ask about, or why they cannot be told."""
    taken = dump(process.ref.pid, "nonblocking", patience.left(_DUMP_S), with_locals=True, binary=binary)
    if not isinstance(taken, Dump):
        return taken.message
    threads = tuple(
        msgspec.structs.replace(
            thread, loops=tuple(_complete(loop, thread.frames[loop.depth], process, taken) for loop in thread.loops)
        )
        if thread.is_main
        else thread
        for thread in process.threads
    )
    return msgspec.structs.replace(process, threads=threads)


def _conclude(process: ProcessEvidence, answer: ProcessEvidence | str | Exception | None) -> ProcessEvidence:
    if isinstance(answer, ProcessEvidence):
        return answer
    why = "no time was left" if answer is None else str(answer)
    return msgspec.structs.replace(process, missing=(*process.missing, f"the path that PID {process.ref.pid} asks about: {why}"))


def _complete(loop: SourceLoop, frame: Frame, process: ProcessEvidence, taken: Dump) -> SourceLoop:
    variable, question = name_variable(loop) or ("", "")
    for address in _find_addresses(taken, frame, variable):
        path = read_path(process.ref.pid, address, process.python_version or "")
        if path and (path.startswith("/") or process.cwd is not None):
            target = os.path.normpath(os.path.join(process.cwd or "/", path))
            return msgspec.structs.replace(loop, target=target, question=question)
    return loop


def _find_addresses(taken: Dump, frame: Frame, variable: str) -> Iterator[int]:
    for thread in taken.threads:
        for other, variables in zip(thread.frames, thread.addresses, strict=False):
            if (other.file, other.function) == (frame.file, frame.function) and variable in variables:
                yield variables[variable]


def _read_type(pid: int, address: int) -> tuple[str, int]:
    """Return the name of an object's type and the size of its objects in bytes; empty and 0 where there is no object."""
    head = read_memory(pid, address, _HEAD)
    if head is None or len(head) < _HEAD:
        return "", 0
    (kind,) = struct.unpack_from("=Q", head, 8)
    described = read_memory(pid, kind + _TYPE_NAME, 16)
    if described is None or len(described) < 16:
        return "", 0
    name, size = struct.unpack("=QQ", described)
    return read_string(pid, name) or "", size


def _read_text(pid: int, address: int, version: str) -> str | None:
    head = read_memory(pid, address + _TEXT_LENGTH, _POINTER)
    if head is None or len(head) < _POINTER:
        return None
    (length,) = struct.unpack("=Q", head)
    parts = version.split(".")
    if length > _LIMIT or len(parts) < 2 or not parts[1].isdecimal():
        return None
    at = _TEXT if int(parts[1]) >= 12 else _TEXT_BEFORE_312
    raw = read_memory(pid, address + at, length + 1)
    if raw is None or len(raw) != length + 1 or raw[-1:] != b"\0" or not raw[:-1].isascii():
        return None
    text = raw[:-1].decode()
    return text if text.isprintable() else None
