"""Polls: threads that sleep and ask again, and what they ask for."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from unsloth_watch.diagnose.blame import trace
from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.frames import is_library, is_module, own_frame, plain_name, read_look
from unsloth_watch.diagnose.knowledge import find_known
from unsloth_watch.model.evidence import Frame, ProcessEvidence, SourceLoop, ThreadEvidence
from unsloth_watch.waits.loops import WAITING_FILES
from unsloth_watch.waits.wait import find_loop, is_sleep

_SUBJECTS: tuple[tuple[str, str], ...] = (
    (
        "path",
        r"\b(exists|lexists|is_dir|is_file|isdir|isfile|stat|listdir|scandir|glob|iterdir|read_bytes|read_text|open|getmtime)\(",
    ),
    ("server", r"\b(create_connection|connect|connect_ex|urlopen|urlretrieve|request|get|post|put|head|send)\("),
    ("child", r"\b(poll|is_alive|waitpid|wait4|exitcode|pid_exists)\b"),
    ("import", r"\b(import_module|__import__|exec_module|find_spec)\("),
)
_ASKED: tuple[tuple[str, str], ...] = (
    ("queue", r"\.(get|put)\("),
    ("lock", r"\.acquire\("),
    ("signal", r"\.wait(_for)?\("),
    ("end", r"\.join\("),
    ("result", r"\.(result|exception)\("),
)
"""What a line asks for that waits in memory with a timeout."""
TIMED_SUBJECTS = frozenset(subject for subject, _ in _ASKED)


class Poll(msgspec.Struct, frozen=True):
    """A thread that polls.

    Attributes:
        process: Its process.
        thread: The thread.
        frame: The frame of the loop.
        loop: The loop's text; None where the source could not be read.
        subject: What it asks for: ``path``, ``server``, ``child``, ``import``, one of those in memory, or empty for unknown.
        looks: Looks that show the loop; for a thread that is no main thread, those that show who waits for it.
        elsewhere: Looks that show the program outside of it.
    """

    process: ProcessEvidence
    thread: ThreadEvidence
    frame: Frame
    loop: SourceLoop | None
    subject: str
    looks: int
    elsewhere: int


def find_polls(case: Case) -> Iterator[Poll]:
    """Yield the threads that sleep in a loop: main threads, and the one where the job's waiting ends."""
    for process, thread in _list_candidates(case):
        if find_loop(thread) is not None:
            continue
        asking = _find_asking(thread)
        if asking is None and not is_polling(thread):
            continue
        loop = asking or next((one for one in thread.loops if _has_pause(one, thread)), None)
        frame = thread.frames[loop.depth] if loop is not None else own_frame(thread.frames)
        if frame is None:
            continue
        # Looks are at main threads: one that is waited for is shown by who waits.
        place = frame if thread.is_main else _find_waiting(case)
        shown = [_shows(read_look(look), place) for look in case.looks_of(process.ref)] if place is not None else []
        subject = _find_subject(loop) if asking is None else _find_asked(asking)
        yield Poll(process, thread, frame, loop, subject, sum(one is True for one in shown), shown.count(False))


def _list_candidates(case: Case) -> Iterator[tuple[ProcessEvidence, ThreadEvidence]]:
    for process in case.processes:
        if process.main_thread is not None:
            yield process, process.main_thread
    found = trace(case)
    if found is not None and not found.thread.is_main:
        yield found.process, found.thread


def _find_waiting(case: Case) -> Frame | None:
    """Return the user's frame of the main thread from which the chain of blame starts."""
    found = trace(case)
    return own_frame(found.graph.scene.threads[found.chain.keys[0]].frames) if found is not None else None


def _find_asking(thread: ThreadEvidence) -> SourceLoop | None:
    """Return the ``while`` loop in which a thread waits for something in memory with a timeout, time and again; None for others.

    Nothing but the wait lies between: a training loop that takes batches from a library is no poll of that library's queue.
    """
    is_timed = thread.call == "futex" and len(thread.syscall_args) > 3 and thread.syscall_args[3] != 0
    if thread.state != "S" or not is_timed:
        return None
    depth = next((at for at, one in enumerate(thread.frames) if not one.is_native and not one.file.endswith(WAITING_FILES)), None)
    loop = next((one for one in thread.loops if one.depth == depth), None)
    is_loop = loop is not None and loop.header.startswith("while ")
    return loop if is_loop and _find_asked(loop) else None


def _find_asked(loop: SourceLoop | None) -> str:
    text = loop.line if loop is not None else ""
    return next((subject for subject, pattern in _ASKED if re.search(pattern, text)), "")


def is_lock_wait(thread: ThreadEvidence) -> bool:
    """Whether a thread is in a library's function that polls for a lock."""
    return find_known("lock-exists", thread.frames) is not None or any(
        is_module(frame.file, "filelock.*") for frame in thread.frames
    )


def is_polling(thread: ThreadEvidence) -> bool:
    """Whether a thread sleeps, or is awake for a moment in a loop that sleeps."""
    return _is_sleeping(thread) or (thread.state == "R" and any(map(_calls_sleep, thread.loops)))


def _calls_sleep(loop: SourceLoop) -> bool:
    return any(re.search(r"\bsleep\(", call) for call in (loop.line, *loop.calls))


def _is_sleeping(thread: ThreadEvidence) -> bool:
    return thread.state == "S" and is_sleep(thread.call, thread.syscall_args) and bool(thread.frames)


def _has_pause(loop: SourceLoop, thread: ThreadEvidence) -> bool:
    """Whether a loop is the one that sleeps: the user's own, or a library's whose line says so."""
    is_own = not is_library(thread.frames[loop.depth].file)
    return is_own or any(re.search(r"\b(sleep|wait)\(", call) for call in (loop.line, *loop.calls))


def _shows(frames: tuple[Frame, ...], frame: Frame) -> bool | None:
    """Whether a look shows the loop; None where it is cut off before it would."""
    if any(plain_name(one.function) == plain_name(frame.function) and one.file == frame.file for one in frames):
        return True
    return None if len(frames) >= 6 or not frames else False


def _find_subject(loop: SourceLoop | None) -> str:
    if loop is None:
        return ""
    for text in (loop.header, *loop.calls):
        for subject, pattern in _SUBJECTS:
            if re.search(pattern, text):
                return subject
    return ""


def name_target(poll: Poll) -> str | None:
    """Return what the loop asks for, where it is known: from its variables, or a path or address that it had open for a moment."""
    if poll.loop is not None and poll.loop.target:
        return poll.loop.target
    for name in poll.process.glimpses:
        if name.startswith("/") and not is_library(name) and not name.startswith(("/etc/", "/proc/", "/sys/", "/dev/")):
            return name
    values = {
        name: value
        for frame in poll.thread.frames[: (poll.loop.depth if poll.loop else 0) + 1]
        for name, value in (frame.locals or {}).items()
    }
    words = re.findall(r"\w+", " ".join((poll.loop.header, *poll.loop.calls))) if poll.loop else []
    for word in words:
        match = re.search(r"['\"](/[^'\"]+|https?://[^'\"]+)['\"]", values.get(word, ""))
        if match is not None:
            return match[1]
    if poll.subject == "server":
        peers = [
            item.connection.remote
            for item in poll.process.descriptors or ()
            if item.connection is not None and item.connection.kind != "unix"
        ]
        return next((peer for peer in peers if not peer.endswith(":0")), None)
    return None
