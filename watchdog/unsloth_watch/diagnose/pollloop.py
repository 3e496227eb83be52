"""``poll-loop``: the program sleeps and asks again, and what it asks for does not come true."""

from __future__ import annotations

from collections.abc import Iterator

from unsloth_watch.diagnose.blame import trace
from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.fingerprint import fingerprint
from unsloth_watch.diagnose.frames import own_frame
from unsloth_watch.diagnose.poll import TIMED_SUBJECTS, Poll, find_polls, is_lock_wait, name_target
from unsloth_watch.diagnose.remedies import relaunch
from unsloth_watch.diagnose.rule import CONFIDENCE
from unsloth_watch.model.diagnosis import Culprit, Diagnosis, Remedy, Statement, Status
from unsloth_watch.model.evidence import ProcessEvidence
from unsloth_watch.model.invocation import read_invocation

MIN_LOOKS = 3
"""Looks that must show the loop: fewer fall into one short wait of a healthy program."""
MIN_RETURNS = 2
"""Wake-ups over the kept samples after which a wait with a timeout counts as repeated."""
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
    if poll.subject == "end" or not _is_blamed(case, poll) or (poll.subject in TIMED_SUBJECTS and not _has_returned(case, poll)):
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
