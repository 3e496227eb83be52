"""What is known about the libraries in a diagnosis: said beside the cause that a rule found, with the library's own remedies."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.knowledge import KnownFrame, known_frames
from unsloth_watch.diagnose.remedies import Need, choose_remedies
from unsloth_watch.model.diagnosis import Diagnosis, Remedy, Statement
from unsloth_watch.model.evidence import Frame, ProcessEvidence

MOST = 2
"""Notes said beside one diagnosis: more are a list and no help."""


def recall(case: Case, diagnosis: Diagnosis) -> Diagnosis:
    """Return a diagnosis with what is known about the places in its stacks.

    Only the culprit's process and the command itself are looked at, and only entries that name this very cause and do not exclude
    the installed version. They come after the rule's own evidence, their remedies before a plain relaunch.
    """
    found = list(_find(case, diagnosis))[:MOST]
    if not found:
        return diagnosis
    statements = [_tell(case, known, frame) for _, known, frame in found]
    known_ids = {remedy.id for remedy in diagnosis.remedies}
    remedies = [remedy for process, known, _ in found for remedy in _mend(case, process, known) if remedy.id not in known_ids]
    own = [remedy for remedy in diagnosis.remedies if remedy.id != "relaunch"]
    last = [remedy for remedy in diagnosis.remedies if remedy.id == "relaunch"]
    return msgspec.structs.replace(
        diagnosis,
        evidence=(*diagnosis.evidence, *statements),
        remedies=tuple({remedy.id: remedy for remedy in (*own, *remedies, *last)}.values()),
    )


def _find(case: Case, diagnosis: Diagnosis) -> Iterator[tuple[ProcessEvidence, KnownFrame, Frame]]:
    culprit = diagnosis.culprit.pid if diagnosis.culprit is not None else None
    root = case.root
    wanted = [process for process in case.processes if process.ref.pid == culprit] + ([root] if root is not None else [])
    seen: set[str] = set()
    for process in wanted:
        for known in known_frames("note"):
            if diagnosis.cause not in known.causes or known.id in seen or known.applies(_version(case, known)) is False:
                continue
            frame = next((frame for thread in process.threads for frame in thread.frames if known.matches(frame)), None)
            if frame is not None:
                seen.add(known.id)
                yield process, known, frame


def _version(case: Case, known: KnownFrame) -> str | None:
    return case.version(known.library) if known.library else None


def _tell(case: Case, known: KnownFrame, frame: Frame) -> Statement:
    version = _version(case, known)
    name = f"{known.library} {version}" if version else known.library or known.module
    report = f" ({known.issue})" if known.issue else ""
    return Statement(f"{name} {known.meaning}{report}: {frame}", "knowledge of libraries")


def _mend(case: Case, process: ProcessEvidence, known: KnownFrame) -> tuple[Remedy, ...]:
    need = Need(process, known.library, _version(case, known), upgrade=known.upgrade)
    return choose_remedies(known.remedies, need)
