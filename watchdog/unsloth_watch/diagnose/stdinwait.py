"""``stdin-wait``: the program reads standard input, and nobody answers."""

from __future__ import annotations

from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.fingerprint import fingerprint
from unsloth_watch.diagnose.frames import is_module, python_frames
from unsloth_watch.diagnose.knowledge import KnownFrame, known_frames
from unsloth_watch.diagnose.remedies import Need, choose_remedies
from unsloth_watch.diagnose.rule import CONFIDENCE
from unsloth_watch.model.diagnosis import Culprit, Diagnosis, Remedy, Statement, Status
from unsloth_watch.model.evidence import ProcessEvidence, ThreadEvidence

_READS = frozenset({"read", "readv", "select", "pselect6", "poll", "ppoll"})
_READ_NUMBER = 0  # of read(2) on x86-64, for captures in which the call has no name


class StdinWait:
    """A main thread that is blocked on descriptor 0, which it shares with the command that the user started."""

    id = "stdin-wait"

    def judge(self, case: Case) -> Diagnosis | None:
        """Return the reader; None where nobody reads the command's own standard input."""
        root = case.root
        if root is None:
            return None
        own = _input_of(root)
        for process in case.processes:
            thread = next((thread for thread in process.threads if thread.is_main and _reads_input(thread)), None)
            target = _input_of(process)
            # A child with a pipe of its own waits for its parent's orders, as workers do; only the user's input counts.
            if thread is not None and (process is root or (target is not None and target == own)):
                return _explain(case, process, thread, target)
        return None


def _input_of(process: ProcessEvidence) -> str | None:
    return next((item.target for item in process.descriptors or () if item.fd == 0), None)


def _reads_input(thread: ThreadEvidence) -> bool:
    if thread.call is not None:
        return thread.call in _READS and thread.wait_fds == (0,)
    return thread.syscall == _READ_NUMBER and thread.syscall_args[:1] == (0,)


def _know(thread: ThreadEvidence) -> KnownFrame | None:
    for frame in thread.frames:
        for known in known_frames("input"):
            if is_module(frame.file, known.module):
                return known
    return None


def _explain(case: Case, process: ProcessEvidence, thread: ThreadEvidence, target: str | None) -> Diagnosis:
    frames, known, pid = python_frames(thread.frames), _know(thread), process.ref.pid
    status = Status.ESTABLISHED if target is not None else Status.SUPPORTED
    culprit = Culprit(kind="process", pid=pid, thread=thread.name, frame=str(frames[0]) if frames else None, path=target)
    asks = known.meaning if known else "reads standard input"
    where = f" in {frames[0]}" if frames else ""
    remedy = Remedy(
        id="stdin-null",
        why="without a standard input the program fails at once or takes its default instead of waiting",
        kind="advice",
        advice="start with --stdin null, or answer the question beforehand",
    )
    need = Need(process, known.library if known else "", case.version(known.library) if known else None)
    return Diagnosis(
        cause=StdinWait.id,
        title="The program waits for an answer",
        summary=f"PID {pid} {asks}{where} ({target or 'unknown'}), and nobody answers: answer it, or start with --stdin null.",
        status=status,
        confidence=CONFIDENCE[status],
        culprit=culprit,
        evidence=(
            Statement(f"the main thread of PID {pid} is in {thread.call or 'read'} on descriptor 0", "/proc/PID/syscall"),
            Statement(f"descriptor 0 is {target or 'unknown'}", "/proc/PID/fd"),
        ),
        refuted_by="the program goes on without any input",
        remedies=(*choose_remedies(known.remedies if known else (), need), remedy),
        fingerprint=fingerprint(StdinWait.id, Culprit(kind="process"), frames),
    )
