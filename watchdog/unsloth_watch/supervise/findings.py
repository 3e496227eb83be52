"""The findings about a job: everything captured, why it hangs, and what may be done to it while it lives."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import msgspec

from unsloth_watch.model.diagnosis import Diagnosis, Remedy, Status
from unsloth_watch.model.evidence import Evidence
from unsloth_watch.model.repair import Repair
from unsloth_watch.supervise import clock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unsloth_watch.model.process import ProcessRef
    from unsloth_watch.model.sample import Look, Sample
    from unsloth_watch.model.verdict import Verdict


PATIENCE_S = 30.0
"""Longest wait for evidence and diagnosis; each part has a shorter deadline of its own, so this one is a last resort."""
_turn = threading.Lock()


class Findings(msgspec.Struct, frozen=True):
    """What was found."""

    evidence: Evidence
    diagnosis: Diagnosis
    repair: Repair | None = None
    """What may be done to the living job; None where nothing may."""


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

    One at a time: the capture of an incident that was abandoned goes on to its end, and two that read the same process by ptrace
    would each refuse the other. One that has waited as long as anybody waits for its answer is not begun any more.

    Args:
        members: The job's processes.
        root: The command itself.
        verdict: What the judge said.
        looks: Looks at the stacks since the last progress.
        samples: The newest samples.
        with_locals: Whether the values of local variables may be taken.
        is_gentle: Whether only what pauses nobody may be done: the job may be healthy.

    Raises:
        TimeoutError: Another capture is still under way.
    """
    if not _turn.acquire(timeout=PATIENCE_S):
        raise TimeoutError("another capture is still under way")
    try:
        return _investigate(members, root, verdict, looks, samples, with_locals=with_locals, is_gentle=is_gentle)
    finally:
        _turn.release()


def _investigate(
    members: Sequence[ProcessRef],
    root: ProcessRef,
    verdict: Verdict | None,
    looks: tuple[Look, ...],
    samples: tuple[Sample, ...],
    *,
    with_locals: bool,
    is_gentle: bool,
) -> Findings:
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


def find_nothing(why: str) -> Findings:
    """Return what is known where the evidence or the diagnosis failed.

    Args:
        why: What went wrong, one phrase.
    """
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
