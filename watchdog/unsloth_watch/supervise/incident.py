"""One incident: evidence, diagnosis, what was done about it, and its report, kept up to date until the run ends."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from unsloth_watch.model.diagnosis import Diagnosis, Remedy, Status
from unsloth_watch.model.evidence import Evidence
from unsloth_watch.model.repair import Repair
from unsloth_watch.model.verdict import Verdict
from unsloth_watch.supervise import clock
from unsloth_watch.supervise.restart import UNCHANGED
from unsloth_watch.supervise.worker import Task
from unsloth_watch.tell.records import IncidentRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unsloth_watch.model.process import ProcessRef
    from unsloth_watch.model.sample import Look, Sample
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
    repair: Repair | None = None
    """What may be done to the living job; None where nothing may."""


class Investigation:
    """From a verdict to a report.

    Args:
        run: The run.
        watch: What watched the attempt.
        verdict: Says that it hangs.
        now: Monotonic seconds.
        wake_fd: Written to when the evidence is there.
        is_asked_for: Whether a person wants the evidence; the job may be well, so nothing is done that pauses it.

    Attributes:
        decided_at: When the hang was called, monotonic seconds.
        number: Number of the incident in its run, from 1.
    """

    def __init__(self, run: Run, watch: Watch, verdict: Verdict, now: float, wake_fd: int, *, is_asked_for: bool = False) -> None:
        self.decided_at = now
        self._is_asked_for = is_asked_for
        taken = [other.number for other in (run.investigation, run.asked_for) if other is not None]
        self.number: int = max([*taken, *(incident.number for incident in run.chronicle.record.incidents)], default=0) + 1
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
        samples = watch.recent_samples()
        self._task = Task(
            lambda: investigate(members, root, verdict, looks, samples, with_locals=with_locals, is_gentle=is_asked_for), wake_fd
        )

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
        from unsloth_watch.tell.records import RemedyRecord  # noqa: PLC0415 - only after a hang

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
            user=run.launch.environment,
            is_input_free=run.settings.sources.get("stdin", "default") == "default",
        )
        for change in applied.changes:
            run.chronicle.event(
                "remedy.applied",
                remedy=remedy.id,
                target=change.target,
                # The contract knows three kinds; a directory made and a file moved aside are both the file system's.
                kind="environment" if change.kind in ("environment", "stdin") else "filesystem",
                undo=change.undo,
                why=remedy.why,
            )
        for refusal in applied.refused:
            run.chronicle.complain(f"remedy {remedy.id}: {refusal}")
        is_applied = bool(applied.changes)
        result = "; ".join(filter(None, (f"attempt {attempt} runs with it" if is_applied else "", *applied.refused)))
        replaced = [f"{change.target}={change.before}" for change in applied.changes if change.target in run.launch.environment]
        if replaced:
            result += f"; in place of your own {', '.join(replaced)}, which is part of the cause"
        undo = "; ".join(change.undo for change in applied.changes if change.undo)
        self.set_outcome(RemedyOutcome(remedy, is_applied, result or "nothing was left to change", undo))
        run.launch.is_input_closed |= any(change.kind == "stdin" for change in applied.changes)
        names = {*before, *applied.environment}
        return is_applied, {
            name: applied.environment.get(name) for name in names if before.get(name) != applied.environment.get(name)
        }

    def relaunch_unchanged(self, attempt: int, why: str) -> None:
        """Remember that the next attempt runs as it was: that is a remedy too, and may be the one that helps."""
        from unsloth_watch.tell.incident import RemedyOutcome  # noqa: PLC0415 - only after a hang

        self.set_outcome(RemedyOutcome(Remedy(UNCHANGED, why, "environment"), True, f"attempt {attempt} runs unchanged"))

    def conclude(self, result: str, *, worked: bool | None) -> None:
        """Say in report and summary what became of the remedies whose result was open."""
        self._outcomes = [
            msgspec.structs.replace(outcome, result=f"{outcome.result}; {result}", worked=worked)
            if outcome.applied and outcome.worked is None
            else outcome
            for outcome in self._outcomes
        ]
        self.note(result)
        self._record()
        self.write()

    def write(self) -> None:
        """Write the report as things stand, in a task beside the loop; it is rendered by a child, which keeps us small."""
        from unsloth_watch.tell.directory import find_base  # noqa: PLC0415 - only after a hang
        from unsloth_watch.tell.incident import Incident  # noqa: PLC0415
        from unsloth_watch.tell.previous import find_previous  # noqa: PLC0415

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
        directory, run_id = self.directory, run.launch.directory.id
        bases = (find_base(run.launch.environment), os.path.dirname(run.launch.directory.path))

        def work() -> None:
            if before is not None:
                before.wait(_RENDER_LIMIT_S)
            previous = find_previous(incident.diagnosis.fingerprint, bases, run_id)
            _archive(msgspec.structs.replace(incident, previous=previous), directory, samples, redactor)

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
    samples: tuple[Sample, ...] = (),
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
        samples: The newest samples.
        with_locals: Whether the values of local variables may be taken.
        is_gentle: Whether only what pauses nobody may be done: the job may be healthy.
    """
    # Imported here: nothing of this is needed, nor in memory, until a job hangs.
    from unsloth_watch.capture.caches import probe_caches  # noqa: PLC0415
    from unsloth_watch.capture.capture import capture  # noqa: PLC0415
    from unsloth_watch.capture.versions import read_versions  # noqa: PLC0415
    from unsloth_watch.diagnose.case import Case  # noqa: PLC0415
    from unsloth_watch.diagnose.choice import diagnose  # noqa: PLC0415
    from unsloth_watch.diagnose.liverepair import plan_repair  # noqa: PLC0415

    evidence = capture(
        members,
        root,
        at=clock.monotonic(),
        clock=clock.monotonic,
        with_locals=with_locals,
        is_gentle=is_gentle,
        probes=(probe_caches, read_versions),
    )
    case = Case(evidence, verdict, looks, samples)
    diagnosis = diagnose(case)
    return Findings(evidence, diagnosis, plan_repair(case, diagnosis))


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
