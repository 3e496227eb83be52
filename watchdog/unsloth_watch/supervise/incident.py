"""One incident: evidence, diagnosis, what was done about it, and its report, kept up to date until the run ends."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import msgspec

from unsloth_watch.model.diagnosis import Diagnosis
from unsloth_watch.model.repair import Repair
from unsloth_watch.model.verdict import Verdict
from unsloth_watch.supervise import clock
from unsloth_watch.supervise.findings import PATIENCE_S, Findings, find_nothing, investigate
from unsloth_watch.supervise.worker import Task
from unsloth_watch.tell.incident import Incident, RemedyOutcome
from unsloth_watch.tell.records import IncidentRecord, RemedyRecord

if TYPE_CHECKING:
    from unsloth_watch.supervise.report import Report
    from unsloth_watch.supervise.run import Run
    from unsloth_watch.supervise.watch import Watch

_RUNS = re.compile(r"attempt \d+ runs (with it|unchanged)")
_OUTPUT_TAIL_BYTES = 16 * 1024
"""Bytes at the end of the output that the report shows."""


class Investigation:
    """From a verdict to a report.

    Args:
        run: The run.
        watch: What watched the attempt.
        verdict: Says that it hangs.
        now: Monotonic seconds.
        number: Number of the incident in its run, from 1.
        is_asked_for: Whether a person wants the evidence; the job may be well, so nothing is done that pauses it.

    Attributes:
        decided_at: When the hang was called, monotonic seconds.
        number: As given.
        directory: Where the report is.
    """

    def __init__(self, run: Run, watch: Watch, verdict: Verdict, now: float, *, number: int, is_asked_for: bool = False) -> None:
        self.decided_at = now
        self.number = number
        self.directory = run.launch.directory.incident(number)
        self._is_asked_for = is_asked_for
        self._run = run
        self._verdict = verdict
        self._wall = clock.wall()
        self._suspected_at = watch.suspected_at
        self._attempt = run.attempt
        self._actions: list[str] = []
        self._outcomes: list[RemedyOutcome] = []
        self._tail = run.relay.tail(_OUTPUT_TAIL_BYTES) if run.relay is not None else b""
        self._findings: Findings | None = None
        self._report: Report | None = None
        self._missing: tuple[str, ...] = ()
        try:
            members = run.job.members()
        except OSError as error:  # of who was there at the last look, evidence can be had all the same
            members = run.job.known_members()
            self._missing = (f"processes born since the last look: the job could not be listed: {error.strerror or error}",)
        root, looks, with_locals = run.job.root, watch.memory.looks, run.settings.locals
        samples = watch.recent_samples()
        self._task = Task(
            lambda: investigate(members, root, verdict, looks, samples, with_locals=with_locals, is_gentle=is_asked_for),
            run.poller.wake_fd,
        )

    @property
    def is_done(self) -> bool:
        """Whether there is something to act upon: the findings, or the end of our patience with them."""
        return self._task.is_done or clock.monotonic() - self.decided_at > PATIENCE_S

    @property
    def diagnosis(self) -> Diagnosis:
        """Why it hangs."""
        return self._collect().diagnosis

    @property
    def repair(self) -> Repair | None:
        """What may be done to the living job."""
        return self._collect().repair

    @property
    def is_mended(self) -> bool:
        """Whether a remedy was applied for the next attempt, and it is not known whether it helped."""
        return any(outcome.applied and outcome.worked is None for outcome in self._outcomes)

    def _collect(self) -> Findings:
        """Return the findings; an investigation that failed says so, and the hang stays one."""
        if self._findings is None:
            waited_s = clock.monotonic() - self.decided_at
            try:
                self._findings = self._task.result() if self._task.is_done else find_nothing(f"not there after {waited_s:.0f} s")
            except Exception as error:  # the report names the fault, and the run goes on
                self._findings = find_nothing(f"the investigation failed: {type(error).__name__}: {error}")
            evidence = self._findings.evidence
            evidence = msgspec.structs.replace(evidence, missing=(*evidence.missing, *self._missing))
            self._findings = msgspec.structs.replace(self._findings, evidence=evidence)
        return self._findings

    def announce(self) -> None:
        """Tell the hang, its cause and what was captured."""
        findings = self._collect()
        diagnosis, evidence = findings.diagnosis, findings.evidence
        chronicle = self._run.chronicle
        if self._is_asked_for:
            self.note(f"evidence was asked for; the judge said {self._verdict.state.value}, and nobody was paused or ended")
        else:
            self._announce_hang(diagnosis)
        chronicle.event(
            "incident.captured",
            incident=self.number,
            seconds=round(evidence.seconds, 3),
            complete=evidence.is_complete,
            missing=[*evidence.missing, *(phrase for process in evidence.processes for phrase in process.missing)],
        )
        self._record()
        count = len(evidence.processes)
        self.note(
            f"evidence of {count} process{'es' if count != 1 else ''} taken in {evidence.seconds:.1f} s, before anything was ended"
        )

    def _announce_hang(self, diagnosis: Diagnosis) -> None:
        self._run.chronicle.event(
            "hang.detected",
            cause=diagnosis.cause,
            proven=self._verdict.is_proven,
            proof=list(self._verdict.proof),
            quiet_s=round(self._verdict.quiet_s, 3),
            confidence=diagnosis.confidence,
            culprit=diagnosis.culprit,
            summary=diagnosis.summary,
            incident=self.number,
            status=diagnosis.status,
            path=self.directory,
        )

    def _record(self) -> None:
        """Put the incident as it stands into the run's summary."""
        diagnosis = self.diagnosis
        self._run.chronicle.incident(
            IncidentRecord(
                number=self.number,
                cause=diagnosis.cause,
                proven=self._verdict.is_proven,
                quiet_s=round(self._verdict.quiet_s, 3),
                summary=diagnosis.summary,
                path=os.path.relpath(self.directory, self._run.launch.directory.path),
                fingerprint=diagnosis.fingerprint,
                attempt=self._attempt,
                is_asked_for=self._is_asked_for,
                remedies=tuple(
                    RemedyRecord(one.remedy.id, one.remedy.kind, one.applied, one.worked, one.result) for one in self._outcomes
                ),
            )
        )

    def set_outcome(self, outcome: RemedyOutcome) -> None:
        """Remember what came of a remedy, in place of what was known of it before."""
        self._outcomes = [*(one for one in self._outcomes if one.remedy.id != outcome.remedy.id), outcome]
        self._record()

    def note(self, action: str) -> None:
        """Remember something that was done."""
        self._actions.append(action)

    def conclude(self, result: str, *, worked: bool | None) -> None:
        """Say in report and summary what became of the remedies whose result was open."""
        self._outcomes = [
            msgspec.structs.replace(outcome, result=supersede(outcome.result, result), worked=worked)
            if outcome.applied and outcome.worked is None
            else outcome
            for outcome in self._outcomes
        ]
        self._record()
        self.write()

    def write(self) -> None:
        """Write the report as things stand, beside the loop."""
        # What writes reports takes 35 to 110 ms to import: later than the evidence.
        from unsloth_watch.supervise.report import Report  # noqa: PLC0415

        run, findings = self._run, self._collect()
        self._report = self._report or Report(run, self.directory)
        self._report.write(
            Incident(
                run=run.launch.directory.id,
                number=self.number,
                attempt=self._attempt,
                command=run.launch.command,
                cwd=run.launch.cwd,
                wall=self._wall,
                verdict=self._verdict,
                diagnosis=findings.diagnosis,
                evidence=findings.evidence,
                outcomes=tuple(self._outcomes),
                actions=tuple(self._actions),
                suspected_at=self._suspected_at,
                output_tail=_from_whole_line(self._tail).decode("utf-8", "replace"),
                environment=dict(run.launch.environment),
                versions=run.chronicle.record.versions,
            )
        )

    @property
    def is_written(self) -> bool:
        """Whether the newest report is there, or could not be written."""
        return self._report is None or self._report.is_written

    def wait(self) -> None:
        """Wait until the newest report is there; at the end of a run, or where it is."""
        if self._report is not None:
            self._report.wait()


def _from_whole_line(tail: bytes) -> bytes:
    """Drop a first line that was cut: half a secret would not be recognised as one."""
    return tail if len(tail) < _OUTPUT_TAIL_BYTES else tail[tail.find(b"\n") + 1 :]


def supersede(open_result: str, result: str) -> str:
    """Put what became of an attempt in place of the news that it runs; what else was said of the remedy stays."""
    kept = [phrase for phrase in open_result.split("; ") if not _RUNS.fullmatch(phrase)]
    return "; ".join([result, *kept])
