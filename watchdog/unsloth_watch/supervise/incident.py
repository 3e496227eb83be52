"""One incident: evidence, diagnosis, what was done about it, and its report, kept up to date until the run ends."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from unsloth_watch.model.diagnosis import Diagnosis, Remedy, Status
from unsloth_watch.model.evidence import Evidence
from unsloth_watch.model.verdict import Verdict
from unsloth_watch.supervise import clock
from unsloth_watch.supervise.worker import Task
from unsloth_watch.tell.records import IncidentRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unsloth_watch.model.process import ProcessRef
    from unsloth_watch.model.sample import Look
    from unsloth_watch.supervise.run import Run
    from unsloth_watch.supervise.watch import Watch
    from unsloth_watch.tell.incident import RemedyOutcome

_LIMIT_S = 30.0
"""Longest wait for evidence and diagnosis; each part has a shorter deadline of its own, so this one is a last resort."""
_OUTPUT_TAIL_BYTES = 16 * 1024
_RENDER_LIMIT_S = 30.0
_PLOTTED_S = 900.0
"""Seconds of samples before the verdict that the report plots."""


class Findings(msgspec.Struct, frozen=True):
    """What an investigation found."""

    evidence: Evidence
    diagnosis: Diagnosis


class Investigation:
    """From a verdict to a report.

    Args:
        run: The run.
        watch: What watched the attempt.
        verdict: Says that it hangs.
        now: Monotonic seconds.
        wake_fd: Written to when the evidence is there.

    Attributes:
        decided_at: When the hang was called, monotonic seconds.
        number: Number of the incident in its run, from 1.
    """

    def __init__(self, run: Run, watch: Watch, verdict: Verdict, now: float, wake_fd: int) -> None:
        self.decided_at = now
        self.number = len(run.chronicle.record.incidents) + 1
        self._run = run
        self._verdict = verdict
        self._wall = clock.wall()
        self._suspected_at = watch.suspected_at
        self._attempt = run.attempt
        self._actions: list[str] = []
        self._outcomes: list[RemedyOutcome] = []
        self._tail = run.relay.tail(_OUTPUT_TAIL_BYTES) if run.relay is not None else b""
        self._findings: Findings | None = None
        self._wake_fd = wake_fd
        self._writing: Task[None] | None = None
        members, root, looks, with_locals = run.job.members(), run.job.root, watch.memory.looks, run.settings.locals
        self._task = Task(lambda: investigate(members, root, verdict, looks, with_locals=with_locals), wake_fd)

    @property
    def directory(self) -> str:
        """Where the report is."""
        return self._run.launch.directory.incident(self.number)

    @property
    def is_done(self) -> bool:
        """Whether there is something to act upon: the findings, or the end of our patience with them."""
        return self._task.is_done or clock.monotonic() - self.decided_at > _LIMIT_S

    @property
    def diagnosis(self) -> Diagnosis:
        """Why it hangs."""
        return self._collect().diagnosis

    @property
    def is_mended(self) -> bool:
        """Whether a remedy was applied."""
        return any(outcome.applied for outcome in self._outcomes)

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
        chronicle.event(
            "hang.detected",
            cause=diagnosis.cause,
            proven=self._verdict.is_proven,
            quiet_s=round(self._verdict.quiet_s, 3),
            confidence=diagnosis.confidence,
            culprit=diagnosis.culprit,
            summary=diagnosis.summary,
            incident=self.number,
            status=diagnosis.status,
            path=self.directory,
        )
        chronicle.event(
            "incident.captured",
            incident=self.number,
            seconds=round(evidence.seconds, 3),
            complete=evidence.is_complete,
            missing=[*evidence.missing, *(phrase for process in evidence.processes for phrase in process.missing)],
        )
        chronicle.incident(
            IncidentRecord(
                number=self.number,
                cause=diagnosis.cause,
                proven=self._verdict.is_proven,
                quiet_s=round(self._verdict.quiet_s, 3),
                summary=diagnosis.summary,
                path=os.path.relpath(self.directory, self._run.launch.directory.path),
                fingerprint=diagnosis.fingerprint,
            )
        )
        count = len(evidence.processes)
        self.note(
            f"evidence of {count} process{'es' if count != 1 else ''} taken in {evidence.seconds:.1f} s, before anything was ended"
        )

    def note(self, action: str) -> None:
        """Remember something that was done."""
        self._actions.append(action)

    def mend(self, remedy: Remedy, attempt: int) -> tuple[bool, dict[str, str | None]]:
        """Apply a remedy for the next attempt.

        Returns:
            Whether anything was changed that may help, and the variables that differ now. A remedy that fails is told, not raised.
        """
        from unsloth_watch.act.mend import apply  # noqa: PLC0415 - only after a hang
        from unsloth_watch.tell.incident import RemedyOutcome  # noqa: PLC0415

        run = self._run
        before = run.next_environment()
        applied = apply(
            remedy,
            before,
            private_dir=run.private_directory(),
            quarantine_dir=os.path.join(run.launch.directory.path, "quarantine"),
            is_anyone_alive=run.job.is_anyone_alive,
            cwd=run.launch.cwd,
        )
        for change in applied.changes:
            run.chronicle.event(
                "remedy.applied",
                remedy=remedy.id,
                target=change.target,
                # The contract knows three kinds; a directory made and a file moved aside are both the file system's.
                kind="environment" if change.kind == "environment" else "filesystem",
                undo=change.undo,
                why=remedy.why,
            )
        for refusal in applied.refused:
            run.chronicle.complain(f"remedy {remedy.id}: {refusal}")
        is_applied = bool(applied.changes)
        result = f"attempt {attempt} runs with it" if is_applied else "; ".join(applied.refused) or "nothing was left to change"
        undo = "; ".join(change.undo for change in applied.changes if change.undo)
        self._outcomes.append(RemedyOutcome(remedy, is_applied, result, undo))
        names = {*before, *applied.environment}
        return is_applied, {
            name: applied.environment.get(name) for name in names if before.get(name) != applied.environment.get(name)
        }

    def conclude(self, result: str) -> None:
        """Say in the report what became of the remedies that were applied."""
        self._outcomes = [
            msgspec.structs.replace(outcome, result=result) if outcome.applied else outcome for outcome in self._outcomes
        ]
        self.note(result)
        self.write()

    def write(self) -> None:
        """Write the report as things stand, in a task beside the loop; it is rendered by a child, which keeps us small."""
        from unsloth_watch.tell.incident import Incident  # noqa: PLC0415 - only after a hang

        run, findings = self._run, self._collect()
        incident = Incident(
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
        before, redactor, samples = self._writing, run.chronicle.redactor, run.launch.directory.samples
        directory = self.directory

        def work() -> None:
            if before is not None:
                before.wait(_RENDER_LIMIT_S)
            _archive(incident, directory, samples, redactor)

        self._writing = Task(work, self._wake_fd)

    def wait(self) -> None:
        """Wait until the newest report is there; at the end of a run."""
        if self._writing is None:
            return
        self._writing.wait(_RENDER_LIMIT_S)
        try:
            if self._writing.is_done:
                self._writing.result()
        except Exception as error:  # a report that cannot be written is said; the run's outcome stands
            self._run.chronicle.complain(f"cannot write the report in {self.directory}: {error}")


def _from_whole_line(tail: bytes) -> bytes:
    """Drop a first line that was cut: half a secret would not be recognised as one."""
    return tail if len(tail) < _OUTPUT_TAIL_BYTES else tail[tail.find(b"\n") + 1 :]


def _archive(incident: object, directory: str, samples: str, redactor: object) -> None:
    """Write ``report.json``, the stacks and the evidence; render ``report.md`` and ``report.html`` in a child."""
    from unsloth_watch.capture.deadline import run_command  # noqa: PLC0415 - only after a hang
    from unsloth_watch.errors import WatchError  # noqa: PLC0415
    from unsloth_watch.tell.archive import render_command, write_incident  # noqa: PLC0415
    from unsloth_watch.tell.incident import Incident  # noqa: PLC0415
    from unsloth_watch.tell.redact import Redactor  # noqa: PLC0415
    from unsloth_watch.tell.samples import read_samples  # noqa: PLC0415

    assert isinstance(incident, Incident)
    assert isinstance(redactor, Redactor)
    first = incident.verdict.at - _PLOTTED_S
    try:
        plotted = tuple(sample for sample in read_samples(samples) if first <= sample.at <= incident.verdict.at)
    except OSError:  # no sample could be written: the report goes without plots
        plotted = ()
    os.makedirs(directory, mode=0o700, exist_ok=True)
    troubles = write_incident(directory, msgspec.structs.replace(incident, samples=plotted), redactor)
    if troubles:
        raise WatchError("; ".join(troubles))
    outcome = run_command(render_command(directory), _RENDER_LIMIT_S)
    if outcome.rc != 0:
        raise WatchError(f"rendering failed: {outcome.stderr.decode('utf-8', 'replace').strip() or outcome.rc}")


def investigate(
    members: Sequence[ProcessRef],
    root: ProcessRef,
    verdict: Verdict | None,
    looks: tuple[Look, ...],
    *,
    with_locals: bool,
    is_gentle: bool = False,
) -> Findings:
    """Capture everything about a job and explain it; takes seconds, so it runs beside the loop.

    Args:
        members: The job's processes.
        root: The command itself.
        verdict: What the judge said.
        looks: Looks at the stacks since the last progress.
        with_locals: Whether the values of local variables may be taken.
        is_gentle: Whether only what pauses nobody may be done: the job may be healthy.
    """
    # Imported here: nothing of this is needed, nor in memory, until a job hangs.
    from unsloth_watch.capture.caches import probe_caches  # noqa: PLC0415
    from unsloth_watch.capture.capture import capture  # noqa: PLC0415
    from unsloth_watch.capture.versions import read_versions  # noqa: PLC0415
    from unsloth_watch.diagnose.case import Case  # noqa: PLC0415
    from unsloth_watch.diagnose.choice import diagnose  # noqa: PLC0415

    evidence = capture(
        members,
        root,
        at=clock.monotonic(),
        clock=clock.monotonic,
        with_locals=with_locals,
        is_gentle=is_gentle,
        probes=(probe_caches, read_versions),
    )
    return Findings(evidence, diagnose(Case(evidence, verdict, looks)))


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
            remedies=(Remedy("relaunch", "an unknown cause may be gone at the next attempt; once only", "environment"),),
            fingerprint="0" * 16,
        ),
    )
