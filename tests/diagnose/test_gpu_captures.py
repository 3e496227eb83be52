"""The diagnosis of what was captured from real Unsloth hanging on an H100 80GB HBM3 (driver 580.159.04)."""

from __future__ import annotations

import pytest

from judge.test_gpu_recordings import read_capture, read_run
from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.choice import diagnose
from unsloth_watch.model.diagnosis import Diagnosis
from unsloth_watch.model.verdict import State, Verdict

pytestmark = pytest.mark.quick


def diagnosis_of(name: str) -> Diagnosis:
    """Diagnose as at the incident, with the samples that were kept then."""
    evidence = read_capture(name)
    samples = [sample for sample in read_run(name) if sample.at <= evidence.at][-10:]
    looks = tuple(look for sample in read_run(name) if evidence.at - 40.0 <= sample.at <= evidence.at for look in sample.looks)
    verdict = Verdict(State.HUNG, evidence.at, 40.0, 40.0, None, ("no work and no data moved for 40 s",))
    return diagnose(Case(evidence, verdict, looks, tuple(samples)))


@pytest.mark.parametrize(
    ("name", "cause", "words"),
    [
        ("lock", "thread-deadlock", "holds it already"),
        ("spin", "gpu-stall", "a kernel on it does not end"),
        ("busy", "busy-loop", "burns CPU"),
        ("founding", "compile-cache-unusable", "PYTHONPATH"),
    ],
)
def test_the_cause_is_found(name: str, cause: str, words: str) -> None:
    found = diagnosis_of(name)
    assert found.cause == cause
    assert words in found.summary


def test_a_kernel_that_never_ends_is_told_by_its_traffic_and_by_where_the_host_waits() -> None:
    statements = " ".join(statement.statement for statement in diagnosis_of("spin").evidence)
    assert "100 % busy" in statements
    assert "cuCtxSynchronize" in statements
