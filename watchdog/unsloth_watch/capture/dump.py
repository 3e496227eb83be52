"""The Python stacks of one process as a tool printed them, or why there are none."""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec

from unsloth_watch.model.evidence import Frame


class Failure(str, enum.Enum):
    """Why a dump failed; decides which rung comes next."""

    NO_TOOL = "no-tool"
    """The tool is not installed or cannot be started."""
    NO_PERMISSION = "no-permission"
    """No right to trace the process."""
    GONE = "gone"
    """It has exited, or is a zombie."""
    NOT_PYTHON = "not-python"
    """No interpreter was found in it, or it was just exec'ed."""
    STOPPED = "stopped"
    """It is stopped, so it cannot be suspended; nonblocking works."""
    TRACED = "traced"
    """Another tool traces it; nonblocking works."""
    LATE = "late"
    """The deadline passed and the tool was killed."""
    GARBAGE = "garbage"
    """The tool said that all was well, and what it printed cannot be used."""
    OTHER = "other"
    """Anything else; the message has the tool's words."""


class DumpFailure(msgspec.Struct, frozen=True):
    """A dump that failed.

    Attributes:
        kind: What decides about the next step.
        message: What happened, for people.
        was_killed: Whether the tool was killed by us in the middle, so that the target's state has to be looked at.
    """

    kind: Failure
    message: str
    was_killed: bool = False


class PythonThread(msgspec.Struct, frozen=True):
    """A thread with a Python state.

    Attributes:
        tid: Kernel thread id in the target's own PID namespace; None where the tool does not know it.
        name: Python's name, empty if unknown.
        frames: Innermost first.
        has_gil: Whether it holds the interpreter lock.
        is_active: What py-spy thinks; described, never decided by.
        handle: ``pthread_t``, which glibc puts at the top of the thread's stack.
        addresses: For each frame the addresses of its variables by name; empty unless variables were asked for.
    """

    tid: int | None
    name: str
    frames: tuple[Frame, ...]
    has_gil: bool | None
    is_active: bool
    handle: int | None = None
    addresses: tuple[dict[str, int], ...] = ()


class Dump(msgspec.Struct, frozen=True):
    """Stacks of a process.

    Attributes:
        threads: In the tool's order.
        method: ``native``, ``plain``, ``nonblocking`` or ``pystack``.
        skipped: Threads that were printed in a form that cannot be used.
        seconds: Wall seconds it took.
    """

    threads: tuple[PythonThread, ...]
    method: str
    skipped: int = 0
    seconds: float = 0.0


_Id = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]  # larger ones cannot be written as JSON integers again


class _Local(msgspec.Struct):
    name: str
    repr: str | None = None
    addr: _Id = 0


class _Frame(msgspec.Struct):
    name: str
    filename: str
    line: _Id = 0
    module: str | None = None
    locals: list[_Local] | None = None


class _Thread(msgspec.Struct):
    frames: list[_Frame]
    thread_id: _Id | None = None
    thread_name: str | None = None
    os_thread_id: _Id | None = None
    active: bool = False
    owns_gil: bool | None = None


def parse_dump(printed: bytes, method: str, seconds: float = 0.0) -> Dump | DumpFailure:
    """Return what ``py-spy dump --json`` printed.

    A thread that does not fit is skipped and counted. Success needs at least one frame: py-spy prints ``[]`` or threads without
    frames for an interpreter that is starting or ending, with exit status 0.
    """
    try:
        items = msgspec.json.decode(printed, type=list[object])
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        return DumpFailure(Failure.GARBAGE, f"py-spy's answer is no JSON list of threads ({error})")
    threads = []
    for item in items:
        try:
            threads.append(_convert(msgspec.convert(item, _Thread)))
        except (msgspec.ValidationError, RecursionError):
            continue
    if not any(thread.frames for thread in threads):
        return DumpFailure(Failure.GARBAGE, "py-spy's answer has no frame in any thread")
    return Dump(tuple(threads), method, len(items) - len(threads), seconds)


def _convert(thread: _Thread) -> PythonThread:
    frames = tuple(
        Frame(
            function=frame.name,
            # py-spy 0.4.3 fills the module for native frames only, with the library. Where that has debug symbols, file and line
            # are of a source on the machine that built it; the library is what a person and a rule can use.
            file=frame.module or frame.filename,
            line=0 if frame.module else frame.line,
            is_native=bool(frame.module),
            locals=None if frame.locals is None else {item.name: item.repr or "?" for item in frame.locals},
        )
        for frame in thread.frames
    )
    return PythonThread(
        tid=thread.os_thread_id or None,
        name=thread.thread_name or "",
        frames=frames,
        has_gil=thread.owns_gil,
        is_active=thread.active,
        handle=thread.thread_id,
        addresses=tuple({item.name: item.addr for item in frame.locals or () if item.addr} for frame in thread.frames),
    )


_FAILURES = (
    ("permission denied", Failure.NO_PERMISSION),
    ("failed to find python version", Failure.NOT_PYTHON),
    ("failed to get process executable", Failure.GONE),
    ("no such file or directory", Failure.GONE),
    ("no such process", Failure.GONE),
    ("esrch", Failure.GONE),
    ("sigstop", Failure.STOPPED),
    ("eperm", Failure.TRACED),
)


def classify_failure(stderr: str) -> Failure:
    """Return the kind of failure from py-spy's words: every failure has exit status 1 (py-spy 0.4.3).

    The order matters: ``Permission denied`` comes as an OS error behind other words, and ``EPERM`` alone means a second tracer.
    """
    words = stderr.lower()
    return next((kind for sign, kind in _FAILURES if sign in words), Failure.OTHER)
