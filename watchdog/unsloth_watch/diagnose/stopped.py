"""``process-stopped``: a process of the job is stopped by a signal or held by a tracer."""

from __future__ import annotations

from unsloth_watch.diagnose.blame import trace
from unsloth_watch.diagnose.case import Case, main_thread
from unsloth_watch.diagnose.fingerprint import fingerprint
from unsloth_watch.diagnose.remedies import relaunch
from unsloth_watch.diagnose.rule import CONFIDENCE
from unsloth_watch.diagnose.stdinwait import reads_terminal
from unsloth_watch.model.diagnosis import Culprit, Diagnosis, Remedy, Statement, Status
from unsloth_watch.model.evidence import ProcessEvidence


class ProcessStopped:
    """State T (a signal) or t (a tracer); one that a terminal stopped because it read from it waits for an answer instead."""

    id = "process-stopped"

    def judge(self, case: Case) -> Diagnosis | None:
        """Return the stopped process, the root first; None where none is stopped."""
        root = case.root
        stopped = [process for process in case.processes if process.state in {"T", "t"} and not reads_terminal(process)]
        if not stopped:
            return None
        process = root if root in stopped and root is not None else stopped[0]
        # A stopped root or parent of all others settles it. A stopped helper may be stopped for good reasons of the job's own.
        found = trace(case)
        is_awaited = found is not None and found.end[0] == process.ref.pid
        is_settled = process is root or is_awaited or _is_awaited(case, process)
        return _explain(process, Status.ESTABLISHED if is_settled else Status.SUPPORTED)


def _is_awaited(case: Case, process: ProcessEvidence) -> bool:
    """Whether the process's parent in the job waits for its end."""
    for parent in case.processes:
        thread = main_thread(parent) if parent.ref.pid == process.ppid else None
        if thread is not None and thread.call in {"wait4", "waitid"}:
            return True
    return False


def _explain(process: ProcessEvidence, status: Status) -> Diagnosis:
    pid, is_traced = process.ref.pid, process.state == "t"
    thread = main_thread(process)
    by = f"held by its tracer, PID {process.tracer_pid}" if is_traced else "stopped by a signal"
    command = " ".join(process.command or ())[:80]
    culprit = Culprit(kind="process", pid=pid, peer=command or None)
    remedy = Remedy(
        id="release-tracer" if is_traced else "continue-process",
        why="it does nothing until its tracer lets go"
        if is_traced
        else "SIGCONT lets it run on from where it was; nothing is lost",
        kind="live",
        advice=f"end or detach PID {process.tracer_pid}" if is_traced else f"kill -CONT {pid}",
    )
    terminal = next((item.target for item in process.descriptors or () if item.fd == 0 and item.target.startswith("/dev/")), "")
    statements = [Statement(f"PID {pid} is in state {process.state}", "/proc/PID/stat")]
    if terminal and terminal != "/dev/null":
        statements.append(
            Statement(f"its standard input is {terminal}: a background job that reads a terminal is stopped", "/proc/PID/fd")
        )
    return Diagnosis(
        cause=ProcessStopped.id,
        title="A process is stopped",
        summary=f"PID {pid} ({command or 'command unknown'}) is {by}: {remedy.advice}.",
        status=status,
        confidence=CONFIDENCE[status],
        culprit=culprit,
        evidence=tuple(statements),
        refuted_by="the process is in another state a second later without having been continued",
        # A tracer comes back to the next attempt as well; what a signal stopped is not stopped when it starts anew.
        remedies=(remedy,) if is_traced else (remedy, relaunch("a process that starts anew is not stopped")),
        fingerprint=fingerprint(ProcessStopped.id, culprit, thread.frames if thread else ()),
    )
