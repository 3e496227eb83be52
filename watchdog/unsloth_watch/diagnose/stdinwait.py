"""``stdin-wait``: the program asks a question on standard input or the terminal, and nobody answers."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.fingerprint import fingerprint
from unsloth_watch.diagnose.frames import own_frame, plain_name, python_frames
from unsloth_watch.diagnose.knowledge import find_known
from unsloth_watch.diagnose.remedies import Need, choose_remedies
from unsloth_watch.diagnose.rule import CONFIDENCE
from unsloth_watch.model.diagnosis import Culprit, Diagnosis, Remedy, Statement, Status
from unsloth_watch.model.evidence import ProcessEvidence, ThreadEvidence
from unsloth_watch.waits.ends import TERMINALS

_READS = frozenset({"read", "readv", "select", "pselect6", "poll", "ppoll"})
_READ_NUMBER = 0  # of read(2) on x86-64, for captures in which the call has no name
_ASKING = frozenset({"input", "getpass", "unix_getpass", "_raw_input", "prompt_choice", "readline"})


class _Question(msgspec.Struct, frozen=True):
    """A thread that waits for an answer.

    Attributes:
        process: Its process.
        thread: The thread.
        fd: Descriptor that it reads; None where that is not known.
        target: What the descriptor is; None where that is not known.
        is_stopped: Whether the terminal stopped it, because it is in the background (SIGTTIN).
    """

    process: ProcessEvidence
    thread: ThreadEvidence
    fd: int | None
    target: str | None
    is_stopped: bool = False

    @property
    def place(self) -> str:
        """What is read, for people."""
        if (self.target or "").startswith(TERMINALS):
            return f"the terminal ({self.target})"
        return f"standard input ({self.target or 'unknown'})"


class StdinWait:
    """A main thread that is blocked on the terminal, or on descriptor 0 which it shares with the command that the user started."""

    id = "stdin-wait"

    def judge(self, case: Case) -> Diagnosis | None:
        """Return the reader; None where nobody reads what the user would answer on."""
        question = next(_find(case), None)
        return None if question is None else _explain(case, question)


def _find(case: Case) -> Iterator[_Question]:
    root = case.root
    own = _target_of(root, 0) if root is not None else None
    for process in case.processes:
        if reads_terminal(process):
            thread = process.main_thread
            if thread is not None:
                fd = thread.wait_fds[0] if thread.wait_fds else None
                yield _Question(process, thread, fd, _target_of(process, fd) or _terminal_of(process), is_stopped=True)
            continue
        for thread in process.threads:
            fd = _read_fd(thread)
            target = _target_of(process, fd)
            # A child with a pipe of its own waits for its parent's orders, as workers do; only the user's input counts.
            is_users = fd == 0 and (process is root or (target is not None and target == own))
            if thread.is_main and fd is not None and (is_users or (target or "").startswith(TERMINALS)):
                yield _Question(process, thread, fd, target)


def reads_terminal(process: ProcessEvidence) -> bool:
    """Whether a process is stopped because it read from its terminal in the background: it needs an answer, not only SIGCONT.

    The kernel does not say which signal stopped it; the call that it is to repeat does, else the function that asks.
    """
    thread = process.main_thread
    if process.state != "T" or not process.is_background or thread is None:
        return False
    fd = _read_fd(thread)
    if fd is not None:
        return (_target_of(process, fd) or "").startswith(TERMINALS)
    is_asking = any(plain_name(frame.function) in _ASKING for frame in python_frames(thread.frames)[:3])
    return thread.call is None and is_asking and _terminal_of(process) is not None


def _target_of(process: ProcessEvidence, fd: int | None) -> str | None:
    return next((item.target for item in process.descriptors or () if item.fd == fd), None)


def _terminal_of(process: ProcessEvidence) -> str | None:
    return next((item.target for item in process.descriptors or () if item.target.startswith(TERMINALS)), None)


def _read_fd(thread: ThreadEvidence) -> int | None:
    """Return the one descriptor that a thread wants to read from; None where it does something else."""
    if thread.call is not None:
        return thread.wait_fds[0] if thread.call in _READS and len(thread.wait_fds) == 1 else None
    return thread.syscall_args[0] if thread.syscall == _READ_NUMBER and thread.syscall_args else None


def _explain(case: Case, question: _Question) -> Diagnosis:
    process, thread, pid = question.process, question.thread, question.process.ref.pid
    frames, known = python_frames(thread.frames), find_known("input", thread.frames)
    own, prompt = own_frame(thread.frames), _find_prompt(case)
    status = Status.ESTABLISHED if question.target is not None else Status.SUPPORTED
    command = " ".join(process.command or ())[:80] if not frames else None
    culprit = Culprit(
        kind="process", pid=pid, thread=thread.name, frame=str(own) if own else None, path=question.target, peer=command or None
    )
    asks = f"{known.meaning} on {question.place}" if known else f"reads {question.place}"
    where = f" in {own}" if own else ""
    said = f"; it asks: {prompt!r}" if prompt else ""
    stopped = ", and was stopped by SIGTTIN because it is in the background" if question.is_stopped else ""
    mend = (
        "bring it to the foreground, or start it with --stdin null"
        if question.is_stopped
        else "answer it, or start with --stdin null"
    )
    remedy = Remedy(
        id="stdin-null",
        why="without a standard input the program fails at once or takes its default instead of waiting",
        kind="environment",
        stdin="null",
        advice="start with --stdin null, or answer the question beforehand",
    )
    need = Need(process, known.library if known else "", case.version(known.library) if known else None)
    return Diagnosis(
        cause=StdinWait.id,
        title="The program waits for an answer",
        summary=f"PID {pid} {asks}{where}, and nobody answers{stopped}{said}: {mend}.",
        status=status,
        confidence=CONFIDENCE[status],
        culprit=culprit,
        evidence=tuple(_state(question, prompt)),
        refuted_by="the program goes on without any input",
        remedies=(*choose_remedies(known.remedies if known else (), need), remedy),
        fingerprint=fingerprint(StdinWait.id, Culprit(kind="process"), frames),
    )


def _find_prompt(case: Case) -> str:
    """Return the unfinished last line of the output, where there is one: the question."""
    output = next((sample.output for sample in reversed(case.samples) if sample.output is not None), None)
    return (output.prompt or "").strip()[-120:] if output is not None else ""


def _state(question: _Question, prompt: str) -> Iterator[Statement]:
    pid = question.process.ref.pid
    if question.is_stopped:
        yield Statement(f"PID {pid} is stopped, in the background of its terminal", "/proc/PID/stat")
    fd = "its input" if question.fd is None else f"descriptor {question.fd}"
    yield Statement(f"the main thread of PID {pid} is in {question.thread.call or 'read'} on {fd}", "/proc/PID/syscall")
    yield Statement(f"{fd} is {question.target or 'unknown'}", "/proc/PID/fd")
    if prompt:
        yield Statement(f"the last line of the output is unfinished: {prompt!r}", "output")
