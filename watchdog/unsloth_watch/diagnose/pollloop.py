"""``poll-loop``: the program sleeps and asks again, and what it asks for does not come true."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.fingerprint import fingerprint
from unsloth_watch.diagnose.frames import is_library, is_module, own_frame, plain_name, read_look
from unsloth_watch.diagnose.knowledge import find_known
from unsloth_watch.diagnose.remedies import relaunch
from unsloth_watch.diagnose.rule import CONFIDENCE
from unsloth_watch.model.diagnosis import Culprit, Diagnosis, Remedy, Statement, Status
from unsloth_watch.model.evidence import Frame, ProcessEvidence, SourceLoop, ThreadEvidence
from unsloth_watch.model.invocation import read_invocation
from unsloth_watch.waits.wait import find_loop

_SLEEPS = frozenset({"nanosleep", "clock_nanosleep"})
_TIMED = frozenset({"select", "pselect6", "poll", "ppoll"})
MIN_LOOKS = 3
"""Looks that must show the loop: fewer fall into one short wait of a healthy program."""
_SUBJECTS: tuple[tuple[str, str], ...] = (
    (
        "path",
        r"\b(exists|lexists|is_dir|is_file|isdir|isfile|stat|listdir|scandir|glob|iterdir|read_bytes|read_text|open|getmtime)\(",
    ),
    ("server", r"\b(create_connection|connect|connect_ex|urlopen|urlretrieve|request|get|post|put|head|send)\("),
    ("child", r"\b(poll|is_alive|waitpid|wait4|exitcode|pid_exists)\b"),
    ("import", r"\b(import_module|__import__|exec_module|find_spec)\("),
)
_WORDS = {
    "path": "a file or directory that does not come",
    "server": "a server that does not answer as wanted",
    "child": "a child process",
    "import": "an import that fails",
    "": "a condition that does not come true",
}


class Poll(msgspec.Struct, frozen=True):
    """A thread that polls.

    Attributes:
        process: Its process.
        thread: The thread.
        frame: The frame of the loop.
        loop: The loop's text; None where the source could not be read.
        subject: What it asks for: ``path``, ``server``, ``child``, ``import`` or empty for unknown.
        looks: Looks that show the loop.
        elsewhere: Looks that show the program outside of it.
    """

    process: ProcessEvidence
    thread: ThreadEvidence
    frame: Frame
    loop: SourceLoop | None
    subject: str
    looks: int
    elsewhere: int


class PollLoop:
    """A main thread that sleeps in a loop which every look shows.

    Never established: whether the condition will come true tomorrow cannot be seen from here.
    """

    id = "poll-loop"

    def judge(self, case: Case) -> Diagnosis | None:
        """Return the loop of the first process that has one, the root first; None where none has."""
        polls = [(status, poll) for poll in find_polls(case) for status in [_weigh(case, poll)] if status is not None]
        if not polls:
            return None
        status, poll = max(polls, key=lambda pair: CONFIDENCE[pair[0]])
        return _explain(case, status, poll)


def find_polls(case: Case) -> Iterator[Poll]:
    """Yield the main threads that sleep in a loop."""
    for process in case.processes:
        thread = process.main_thread
        if thread is None or not is_polling(thread) or find_loop(thread) is not None:
            continue
        loop = next((one for one in thread.loops if _has_pause(one, thread)), None)
        frame = thread.frames[loop.depth] if loop is not None else own_frame(thread.frames)
        if frame is None:
            continue
        shown = [_shows(read_look(look), frame) for look in case.looks_of(process.ref)]
        yield Poll(process, thread, frame, loop, _find_subject(loop), sum(one is True for one in shown), shown.count(False))


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
    is_pause = thread.call in _SLEEPS or (thread.call in _TIMED and not thread.wait_fds)
    return thread.state == "S" and is_pause and bool(thread.frames)


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


def _weigh(case: Case, poll: Poll) -> Status | None:
    if poll.elsewhere:
        return None
    if is_lock_wait(poll.thread):
        # What it polls for is a lock: the rules for locks know more.
        return Status.HYPOTHESIS if case.is_doubted else None
    if poll.loop is None:
        # Without a visible loop it may be one long sleep, unless it was seen to end and to begin again.
        is_repeated = len({look.stack for look in case.looks_of(poll.process.ref)}) > 1
        return Status.HYPOTHESIS if case.is_doubted and is_repeated and poll.looks >= MIN_LOOKS else None
    if poll.subject == "child" and any(
        process.ppid == poll.process.ref.pid for process in case.processes if process.state not in "ZX"
    ):
        return Status.HYPOTHESIS  # it looks after a living child: that one is to be explained
    return Status.SUPPORTED if case.is_doubted and poll.looks >= MIN_LOOKS else Status.HYPOTHESIS


def name_target(poll: Poll) -> str | None:
    """Return what the loop asks for, where it is known: a path or address that it had open for a moment, or from its variables."""
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


def _explain(case: Case, status: Status, poll: Poll) -> Diagnosis:
    pid, target, own = poll.process.ref.pid, name_target(poll), own_frame(poll.thread.frames) or poll.frame
    culprit = Culprit(
        kind="peer" if poll.subject == "server" and target else "path" if target else "thread",
        pid=pid,
        thread=poll.thread.name,
        frame=str(own),
        path=target if target and target.startswith("/") else None,
        peer=target if target and not target.startswith("/") else None,
    )
    text = f" (`{poll.loop.header}`)" if poll.loop is not None else ""
    named = f", {target}" if target else ""
    error = _last_words(case)
    return Diagnosis(
        cause=PollLoop.id,
        title="The program polls for something that does not come",
        summary=f"PID {pid} asks again and again in {own}{text} for {_WORDS[poll.subject]}{named}"
        + (f"; its last words: {error}" if error else "")
        + ".",
        status=status,
        confidence=CONFIDENCE[status],
        culprit=culprit,
        evidence=tuple(_state(case, poll)),
        refuted_by="a look shows the program outside of this loop, or what it asks for appears",
        remedies=tuple(_advise(poll, target)),
        fingerprint=fingerprint(PollLoop.id, culprit, poll.thread.frames[poll.loop.depth if poll.loop else 0 :]),
    )


def _last_words(case: Case) -> str:
    """Return the unfinished last line of the output, where there is one."""
    output = next((sample.output for sample in reversed(case.samples) if sample.output is not None), None)
    return (output.prompt or "").strip()[:120] if output is not None else ""


def _state(case: Case, poll: Poll) -> Iterator[Statement]:
    pid = poll.process.ref.pid
    yield Statement(f"the main thread of PID {pid} {poll.thread.wait or 'sleeps'}, in {poll.frame}", "/proc/PID/syscall and stack")
    if poll.loop is not None:
        calls = [call for call in poll.loop.calls if not call.startswith(("print(", "str(", "len("))]
        yield Statement(
            f"that line is in the loop `{poll.loop.header}`, which calls {'; '.join(calls[:4]) or 'nothing'}", poll.frame.file
        )
    yield Statement(f"{poll.looks} looks show it there and {poll.elsewhere} elsewhere", "looks")
    for name in poll.process.glimpses:
        yield Statement(f"it has {name} open for a moment each time", "/proc/PID/fd")
    for child in case.processes:
        if child.ppid == pid and child.state in "ZX":
            status = child.wait_status
            ended = "" if status is None else f" with {_tell_end(status)}"
            yield Statement(f"its child, PID {child.ref.pid}, has ended{ended}, and nobody took notice", "/proc/PID/stat")


def _tell_end(status: int) -> str:
    return f"signal {status & 0x7F}" if status & 0x7F else f"status {status >> 8}"


def _advise(poll: Poll, target: str | None) -> Iterator[Remedy]:
    what = target or _WORDS[poll.subject]
    if poll.subject == "path":
        yield Remedy("provide-path", f"the loop ends when {what} is there", "advice", advice=f"find out who should make {what}")
    elif poll.subject == "server":
        yield Remedy(
            "check-server", f"the loop ends when {what} answers", "advice", advice=f"check that {what} runs and look at its log"
        )
    elif poll.subject == "import":
        yield from _find_on_path(poll.process)
    yield relaunch("what it waits for may be there at the next attempt")


def _find_on_path(process: ProcessEvidence) -> Iterator[Remedy]:
    """Put the working directory on the import path: a notebook has it there, a script elsewhere has not (unsloth#1898)."""
    is_heard = process.command is None or not read_invocation(process.command).ignores_environment
    if process.cwd is not None and is_heard:
        why = f"an import fails again and again, and only what lies beside the script is found, not what lies in {process.cwd}"
        yield Remedy("import-path", why, "environment", prepend_path={"PYTHONPATH": process.cwd})
