"""``busy-loop``: the program burns CPU in a closed set of places."""

from __future__ import annotations

from collections.abc import Sequence

from unsloth_watch.diagnose.case import Case, main_thread
from unsloth_watch.diagnose.fingerprint import fingerprint
from unsloth_watch.diagnose.frames import is_library, own_frame, python_frames, read_look
from unsloth_watch.diagnose.remedies import relaunch
from unsloth_watch.diagnose.rule import CONFIDENCE
from unsloth_watch.model.diagnosis import Culprit, Diagnosis, Statement, Status
from unsloth_watch.model.evidence import ProcessEvidence, SourceLoop, ThreadEvidence
from unsloth_watch.model.sample import Look
from unsloth_watch.model.verdict import State

MIN_LOOKS = 5
"""Looks that must agree. Fewer often fall into one function of an honest computation."""
MAX_PLACES = 3
"""Different stacks that still count as closed."""
MOSTLY = 0.75
"""Share of the looks that must find it running for a guess."""


class BusyLoop:
    """A running main thread whose looks fall into the same few stacks, in a job that the judge holds to be hung.

    Never established: a long computation in one function looks the same from outside.
    """

    id = "busy-loop"

    def judge(self, case: Case) -> Diagnosis | None:
        """Return the spinning process; None where none is seen spinning."""
        if not case.is_doubted:
            return None
        for process in case.processes:
            thread = main_thread(process)
            looks = case.looks_of(process.ref)
            places = count_places(looks)
            if thread is None or thread.state != "R" or len(looks) < MIN_LOOKS:
                continue
            active = sum(look.is_active for look in looks)
            if places <= MAX_PLACES and active == len(looks):
                return _explain(case, process, len(looks), places)
            loop = _find_endless(thread) if case.verdict is not None and case.verdict.state is State.HUNG else None
            # On a crowded machine a look now and then catches it while others run.
            if loop is not None and places > MAX_PLACES and active >= MOSTLY * len(looks):
                return _suspect(process, thread, loop, len(looks), places)
        return None


def _find_endless(thread: ThreadEvidence) -> SourceLoop | None:
    """Return the innermost ``while`` loop of the user's code around what a thread does; None where there is none."""
    return next(
        (loop for loop in thread.loops if loop.header.startswith("while ") and not is_library(thread.frames[loop.depth].file)), None
    )


def _suspect(process: ProcessEvidence, thread: ThreadEvidence, loop: SourceLoop, looks: int, places: int) -> Diagnosis:
    """Return the guess that the user's own loop does not end, where the looks find a computation of many places below it."""
    frame = thread.frames[loop.depth]
    culprit = Culprit(kind="thread", pid=process.ref.pid, thread=thread.name, frame=str(frame))
    return Diagnosis(
        cause=BusyLoop.id,
        title="The program computes without an end in sight",
        summary=f"PID {process.ref.pid} computes below the loop `{loop.header}` in {frame}, and nothing of it shows outside: either"
        " that loop does not end, or it needs longer than the busy timeout.",
        status=Status.HYPOTHESIS,
        confidence=CONFIDENCE[Status.HYPOTHESIS],
        culprit=culprit,
        evidence=(
            Statement(f"the main thread of PID {process.ref.pid} is running", "/proc/PID/task"),
            Statement(f"{looks} looks show {places} different stacks", "looks"),
            Statement(f"they are below the loop `{loop.header}`", frame.file),
        ),
        refuted_by="output, files or counters of the work advance while it runs",
        remedies=(
            relaunch("a computation that depends on chance may end the next time; let it report its steps, see docs/judge.md"),
        ),
        fingerprint=fingerprint(BusyLoop.id, culprit, thread.frames[loop.depth :]),
    )


def count_places(looks: Sequence[Look]) -> int:
    """Return how many different stacks the looks show: by line, or by function where a loop of some lines is all there is."""
    by_line = len({look.stack for look in looks})
    by_function = len({tuple((frame.function, frame.file) for frame in read_look(look)) for look in looks})
    return by_function if len(looks) >= 2 * MIN_LOOKS else by_line


def _explain(case: Case, process: ProcessEvidence, looks: int, places: int) -> Diagnosis:
    thread = main_thread(process)
    frames = python_frames(thread.frames) if thread else ()
    is_hung = case.verdict is not None and case.verdict.state is State.HUNG
    status = Status.SUPPORTED if is_hung and frames else Status.HYPOTHESIS
    own = own_frame(frames)
    culprit = Culprit(kind="thread", pid=process.ref.pid, thread=thread.name if thread else None, frame=str(own) if own else None)
    where = f" in {own}" if own else ""
    if frames and own is not frames[0]:
        where += f", below it in {frames[0].function}"
    native = next((frame.function for frame in thread.frames if frame.is_native), None) if thread else None
    loop = thread.loops[0] if thread is not None and thread.loops else None
    statements = [Statement(f"the loop is `{loop.header}`", thread.frames[loop.depth].file)] if loop is not None and thread else []
    statements += [Statement(f"the innermost native function is {native}", "stack")] if native else []
    return Diagnosis(
        cause=BusyLoop.id,
        title="The program spins",
        summary=f"PID {process.ref.pid} burns CPU{where} without getting any further: look at that loop's condition.",
        status=status,
        confidence=CONFIDENCE[status],
        culprit=culprit,
        evidence=(
            Statement(f"the main thread of PID {process.ref.pid} is running", "/proc/PID/task"),
            Statement(f"{looks} looks show {places} different stacks", "looks"),
            *statements,
        ),
        refuted_by="output, files or counters of the work advance while it runs",
        remedies=(relaunch("nothing outside of the program keeps it there, so a fresh start may pass"),),
        fingerprint=fingerprint(BusyLoop.id, culprit, frames),
    )
