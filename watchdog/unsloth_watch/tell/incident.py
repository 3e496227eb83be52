"""An incident: everything that is known about one hang."""

from __future__ import annotations

import msgspec

from unsloth_watch.model.diagnosis import Diagnosis, Remedy
from unsloth_watch.model.evidence import Evidence
from unsloth_watch.model.sample import Sample
from unsloth_watch.model.verdict import Verdict


class RemedyOutcome(msgspec.Struct, frozen=True):
    """What became of a remedy.

    Attributes:
        remedy: The remedy.
        applied: Whether it was applied.
        result: One phrase: ``work moved again after 3 s``, ``attempt 2 runs with it``, ``not tried: --cache keep``.
        undo: Command or words that undo it; empty where nothing is left to undo.
        worked: Whether the work moved again by it; None as long as nobody knows.
    """

    remedy: Remedy
    applied: bool
    result: str = ""
    undo: str = ""
    worked: bool | None = None


class Previous(msgspec.Struct, frozen=True):
    """An earlier incident with the same fingerprint: run, incident number, UTC time, cause, what came of it, report's path."""

    run: str
    incident: int
    at: str
    cause: str
    outcome: str = ""
    path: str = ""


class Incident(msgspec.Struct, frozen=True):
    """The input of a report.

    Attributes:
        run: Run id.
        number: Number of the incident in its run, from 1.
        attempt: Attempt that hung, from 1.
        command: Argument vector of the command.
        cwd: Its working directory.
        wall: Unix time of the verdict; joins monotonic times to people's.
        verdict: The judge's answer.
        diagnosis: Why.
        evidence: The capture.
        outcomes: Remedies that were tried or refused, in order; the diagnosis's other remedies are listed as not applied.
        actions: What the supervisor did, one phrase each, in order: ``evidence captured``, ``ended with SIGTERM after 0.4 s``.
        samples: Samples for the plots, oldest first.
        suspected_at: Monotonic seconds of the first suspicion; None if there was none.
        output_tail: End of the command's output, beginning with a whole line.
        environment: The command's variables.
        previous: Earlier incidents with the same fingerprint, newest first.
        versions: unsloth-watch's own and its tools' versions.
        verdict_confidence: Probability that it is a hang; None takes 1 for a proven one and "unknown" for one waited out.
    """

    run: str
    number: int
    attempt: int
    command: tuple[str, ...]
    cwd: str
    wall: float
    verdict: Verdict
    diagnosis: Diagnosis
    evidence: Evidence
    outcomes: tuple[RemedyOutcome, ...] = ()
    actions: tuple[str, ...] = ()
    samples: tuple[Sample, ...] = ()
    suspected_at: float | None = None
    output_tail: str = ""
    environment: dict[str, str] = {}
    previous: tuple[Previous, ...] = ()
    versions: dict[str, str] = {}
    verdict_confidence: float | None = None
