"""One incident: evidence, diagnosis, what was done about it, and its report, kept up to date until the run ends."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from unsloth_watch.model.diagnosis import Diagnosis, Remedy, Status
from unsloth_watch.model.evidence import Evidence
from unsloth_watch.model.verdict import Verdict
from unsloth_watch.supervise import clock
from unsloth_watch.supervise.worker import Task
from unsloth_watch.tell.records import IncidentRecord

if TYPE_CHECKING:
    from unsloth_watch.supervise.run import Run
    from unsloth_watch.tell.incident import RemedyOutcome

_LIMIT_S = 30.0
"""Longest wait for evidence and diagnosis; each part has a shorter deadline of its own, so this one is a last resort."""
_OUTPUT_TAIL_BYTES = 16 * 1024
_RENDER_LIMIT_S = 30.0


class Findings(msgspec.Struct, frozen=True):
    """What an investigation found."""

    evidence: Evidence
    diagnosis: Diagnosis


class Investigation:
    """From a verdict to a report.

    Args:
        run: The run.
        verdict: Says that it hangs.
        now: Monotonic seconds.
        wake_fd: Written to when the evidence is there.

    Attributes:
        decided_at: When the hang was called, monotonic seconds.
    """

    def __init__(self, run: Run, verdict: Verdict, now: float, wake_fd: int) -> None:
        self.decided_at = now
        self._run = run
        self._verdict = verdict
        self._wall = clock.wall()
        self._suspected_at = run.suspected_at
        self._attempt = run.attempt
        self._number = len(run.chronicle.record.incidents) + 1
        self._actions: list[str] = []
        self._outcomes: list[RemedyOutcome] = []
        self._tail = run.relay.tail(_OUTPUT_TAIL_BYTES) if run.relay is not None else b""
        self._findings: Findings | None = None
        self._wake_fd = wake_fd
        members, root = run.job.members(), run.job.root
        looks = run.memory.looks
        self._task = Task(lambda: _investigate(members, root, verdict, looks, with_locals=run.settings.locals, at=now), wake_fd)
        self._writing: Task[None] | None = None
        self._is_dirty = False

    @property
    def is_done(self) -> bool:
        """Whether there is something to act upon: the findings, or the end of our patience with them."""
        return self._task.is_done or clock.monotonic() - self.decided_at > _LIMIT_S

    @property
    def diagnosis(self) -> Diagnosis:
        """Why it hangs."""
        return self._collect().diagnosis

    def _collect(self) -> Findings:
        """Return the findings; an investigation that failed says so, and the hang stays one."""
        if self._findings is None:
            try:
                self._findings = self._task.result() if self._task.is_done else _give_up(f"not there after {_LIMIT_S:.0f} s")
            except Exception as error:  # the report names the fault, and the run goes on
                self._findings = _give_up(f"the investigation failed: {type(error).__name__}: {error}")
        return self._findings

    def announce(self) -> None:
        """Tell the hang, its cause and what was captured."""
        findings = self._collect()
        diagnosis, evidence = findings.diagnosis, findings.evidence
        chronicle = self._run.chronicle
        path = self._run.launch.directory.incident(self._number)
        chronicle.event(
            "hang.detected",
            cause=diagnosis.cause,
            proven=self._verdict.is_proven,
            quiet_s=round(self._verdict.quiet_s, 3),
            confidence=diagnosis.confidence,
            culprit=diagnosis.culprit,
            summary=diagnosis.summary,
            incident=self._number,
            path=path,
        )
        missing = [*evidence.missing, *(phrase for process in evidence.processes for phrase in process.missing)]
        chronicle.event(
            "incident.captured",
            incident=self._number,
            seconds=round(evidence.seconds, 3),
            complete=evidence.is_complete,
            missing=missing,
        )
        chronicle.incident(
            IncidentRecord(
                number=self._number,
                cause=diagnosis.cause,
                proven=self._verdict.is_proven,
                quiet_s=round(self._verdict.quiet_s, 3),
                summary=diagnosis.summary,
                path=os.path.relpath(path, self._run.launch.directory.path),
                fingerprint=diagnosis.fingerprint,
            )
        )
        self.note(f"evidence of {len(evidence.processes)} processes taken in {evidence.seconds:.1f} s, before anything was ended")
        self.write()

    def note(self, action: str) -> None:
        """Remember something that was done."""
        self._actions.append(action)
        self._is_dirty = True

    def mend(self, remedies: Sequence[Remedy], attempt: int) -> dict[str, str | None]:
        """Apply remedies for the next attempt; return the variables that they change. A remedy that fails is told, not raised."""
        return {}

    def write(self) -> None:
        """Write the report as things stand, beside the loop."""


def _give_up(why: str) -> Findings:
    evidence = Evidence(at=0.0, seconds=0.0, processes=(), missing=(why,))
    return Findings(
        evidence,
        Diagnosis(
            cause="unknown",
            title="Cause unknown",
            summary=f"It made no progress, and why could not be found out: {why}",
            status=Status.UNKNOWN,
            confidence=0.0,
            fingerprint="0" * 16,
        ),
    )


def _investigate(*args: object, **kwargs: object) -> Findings:
    return _give_up("todo")
