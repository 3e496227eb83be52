"""``poll-loop``: the program sleeps and asks again, and what it asks for does not come true."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from unsloth_watch.diagnose.blame import trace
from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.fingerprint import fingerprint
from unsloth_watch.diagnose.frames import is_library, is_module, own_frame, plain_name, read_look
from unsloth_watch.diagnose.knowledge import find_known
from unsloth_watch.diagnose.remedies import relaunch
from unsloth_watch.diagnose.rule import CONFIDENCE
from unsloth_watch.model.diagnosis import Culprit, Diagnosis, Remedy, Statement, Status
from unsloth_watch.model.evidence import Frame, ProcessEvidence, SourceLoop, ThreadEvidence
from unsloth_watch.model.invocation import read_invocation
from unsloth_watch.waits.loops import WAITING_FILES
from unsloth_watch.waits.wait import find_loop

_SLEEPS = frozenset({"nanosleep", "clock_nanosleep"})
_TIMED = frozenset({"select", "pselect6", "poll", "ppoll"})
MIN_LOOKS = 3
"""Looks that must show the loop: fewer fall into one short wait of a healthy program."""
MIN_RETURNS = 2
"""Wake-ups over the kept samples after which a wait with a timeout counts as repeated."""
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
_TIMED_SUBJECTS = frozenset(subject for subject, _ in _ASKED)
_WORDS = {
    "queue": "a queue on which nothing moves",
    "lock": "a lock or a permit that is not given back",
    "signal": "a signal that does not come",
    "end": "a thread or process that does not end",
    "result": "a result that does not come",
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


class PollLoop:
    """A main thread, or the one for which it waits at last, that sleeps in a loop which every look shows.

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
    if poll.subject == "end" or not _is_blamed(case, poll) or (poll.subject in _TIMED_SUBJECTS and not _has_returned(case, poll)):
        # Who does not end is to be explained; a poll that nobody waits for is a monitor; a first timeout may last for hours.
        return Status.HYPOTHESIS
    if poll.subject == "child" and any(
        process.ppid == poll.process.ref.pid for process in case.processes if process.state not in "ZX"
    ):
        return Status.HYPOTHESIS  # it looks after a living child: that one is to be explained
    # The evidence that shows the loop is a look of its own: on a quiet machine two come before it within 9 s.
    return Status.SUPPORTED if case.is_doubted and poll.looks + 1 >= MIN_LOOKS else Status.HYPOTHESIS


def _is_blamed(case: Case, poll: Poll) -> bool:
    """Whether the chain of blame from the job's main thread passes the thread that polls."""
    found = trace(case)
    return found is None or (poll.process.ref.pid, poll.thread.tid) in found.chain.keys


def _has_returned(case: Case, poll: Poll) -> bool:
    """Whether the samples show that a main thread woke and went back to the same wait, twice at least."""
    seen = [one.vctx for sample in case.samples for one in sample.processes or () if one.ref == poll.process.ref]
    woken = [value for value in seen if value is not None]
    return poll.thread.is_main and len(woken) > 1 and woken[-1] - woken[0] >= MIN_RETURNS


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
    who = f"PID {pid}" if poll.thread.is_main else f"Thread {poll.thread.name} of PID {pid}"
    text = f" (`{poll.loop.header}`)" if poll.loop is not None else ""
    named = f", {target}" if target else ""
    error = _last_words(case)
    return Diagnosis(
        cause=PollLoop.id,
        title="The program polls for something that does not come",
        summary=f"{who} asks again and again in {own}{text} for {_WORDS[poll.subject]}{named}"
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
    who = "the main thread" if poll.thread.is_main else f"thread {poll.thread.name}, for which the main thread waits,"
    yield Statement(f"{who} of PID {pid}: {poll.thread.wait or 'sleeps'}, in {poll.frame}", "/proc/PID/syscall and stack")
    if poll.loop is not None:
        calls = [call for call in poll.loop.calls if not call.startswith(("print(", "str(", "len("))]
        yield Statement(
            f"that line is in the loop `{poll.loop.header}`, which calls {'; '.join(calls[:4]) or 'nothing'}", poll.frame.file
        )
        if poll.loop.target:
            yield Statement(f"what it asks about is {poll.loop.target}", "the process's memory")
    shown = "it" if poll.thread.is_main else "the main thread waiting"
    yield Statement(f"{poll.looks} looks show {shown} there and {poll.elsewhere} elsewhere", "looks")
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
