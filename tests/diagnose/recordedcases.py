"""Captures of real programs that really waited; ``scripts/record_captures.py`` recorded them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from unsloth_watch.diagnose import Case
from unsloth_watch.model.evidence import Evidence
from unsloth_watch.model.sample import Look, Sample
from unsloth_watch.model.verdict import State, Verdict

CAPTURES = Path(__file__).resolve().parents[1] / "data" / "captures"
NAMES = sorted(path.stem for path in CAPTURES.glob("*.json"))

HUNG = Verdict(state=State.HUNG, at=200.0, quiet_s=190.0, limit_s=180.0, last_progress=None, reasons=())


class Recorded(msgspec.Struct, frozen=True):
    name: str
    evidence: Evidence
    looks: tuple[Look, ...] = ()
    samples: tuple[Sample, ...] = ()


def case_of(name: str, verdict: Verdict | None = None) -> Case:
    recorded = msgspec.json.decode((CAPTURES / f"{name}.json").read_bytes(), type=Recorded)
    return Case(recorded.evidence, verdict, recorded.looks, recorded.samples)


def replace(case: Case, **changes: object) -> Case:
    """Return a case whose evidence is changed."""
    return msgspec.structs.replace(case, evidence=msgspec.structs.replace(case.evidence, **changes))


def replace_probe(case: Case, cache: str, **changes: object) -> Case:
    """Return a case in which one cache's probe is changed."""
    return replace(
        case,
        caches=tuple(
            msgspec.structs.replace(probe, **changes) if probe.cache == cache else probe for probe in case.evidence.caches
        ),
    )
