"""``compile-cache-unusable``: the program retries around a compile cache that it cannot import or write."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.fingerprint import fingerprint
from unsloth_watch.diagnose.frames import Agreement, Sighting, compare_looks, find_frames
from unsloth_watch.diagnose.knowledge import KnownFrame, known_frames
from unsloth_watch.diagnose.remedies import Need, choose_remedies
from unsloth_watch.diagnose.rule import CONFIDENCE
from unsloth_watch.model.diagnosis import Culprit, Diagnosis, Statement, Status
from unsloth_watch.model.evidence import CacheProbe
from unsloth_watch.model.verdict import State


class _Finding(msgspec.Struct, frozen=True):
    """A process in a known place, with what bears upon it."""

    known: KnownFrame
    sighting: Sighting
    version: str | None
    applies: bool | None
    probe: CacheProbe | None
    agreement: Agreement

    @property
    def is_import_broken(self) -> bool:
        """Whether the cache cannot be imported, so that the loop cannot end."""
        return self.probe is not None and self.probe.is_importable is False

    @property
    def is_write_broken(self) -> bool:
        """Whether the cache cannot be written."""
        return self.probe is not None and self.probe.is_writable is False


class CompileCacheUnusable:
    """A main thread that stays in a known function of a compile cache which fails its probes."""

    id = "compile-cache-unusable"

    def judge(self, case: Case) -> Diagnosis | None:
        """Return the strongest finding; None where no main thread is in a known place."""
        found = [(status, finding) for finding in _find(case) for status in [_weigh(case, finding)] if status is not None]
        if not found:
            return None
        status, finding = max(found, key=lambda pair: CONFIDENCE[pair[0]])
        return _explain(case, status, finding)


def _find(case: Case) -> Iterator[_Finding]:
    for known in known_frames("compile-cache"):
        version = case.version(known.library)
        applies = known.applies(version)
        if applies is False:
            continue
        for sighting in find_frames(case.processes, known.module, known.functions, main_only=True):
            probe = _pick_probe(case.caches(known.cache), sighting.process.cwd)
            yield _Finding(known, sighting, version, applies, probe, compare_looks(case, sighting))


def _pick_probe(probes: tuple[CacheProbe, ...], cwd: str | None) -> CacheProbe | None:
    """Return the probe of the process's own directory, where several processes have several."""
    own = [probe for probe in probes if cwd is not None and probe.path.startswith(cwd.rstrip("/") + "/")]
    return next(iter((*own, *probes)), None)


def _weigh(case: Case, finding: _Finding) -> Status | None:
    """Return how firmly a finding stands.

    In an affected version a failed import probe settles it, given that the program was seen there for a while: the loop's only
    way out is that import. A cache that can be imported and written refutes the cause, wherever the main thread is: a healthy
    import passes through the same function.
    """
    if finding.agreement.contradict:
        return None if not (finding.is_import_broken or finding.is_write_broken) else Status.HYPOTHESIS
    is_lasting = finding.agreement.is_steady or (case.verdict is not None and case.verdict.state in {State.SUSPECTED, State.HUNG})
    if finding.is_import_broken:
        is_settled = finding.applies is True and finding.known.ends != "soon" and is_lasting
        return Status.ESTABLISHED if is_settled else Status.SUPPORTED
    if finding.is_write_broken:
        # Measured with 2025.3.1: an unwritable place ends in PermissionError, ENOSPC or NotADirectoryError: no proof of a hang.
        return Status.SUPPORTED if is_lasting else Status.HYPOTHESIS
    if finding.probe is not None and finding.probe.is_importable:
        return None
    return Status.SUPPORTED if finding.applies and finding.agreement.is_steady else Status.HYPOTHESIS


def _explain(case: Case, status: Status, finding: _Finding) -> Diagnosis:
    known, probe, sighting = finding.known, finding.probe, finding.sighting
    need = Need(sighting.process, known.library, finding.version, probe, upgrade=known.upgrade)
    culprit = Culprit(
        kind="path",
        pid=sighting.process.ref.pid,
        thread=sighting.thread.name,
        frame=str(sighting.frame),
        path=(probe.shadowed_by or probe.path) if probe else None,
    )
    return Diagnosis(
        cause=CompileCacheUnusable.id,
        title="A compile cache cannot be used",
        summary=_summarise(finding, need),
        status=status,
        confidence=CONFIDENCE[status],
        culprit=culprit,
        evidence=tuple(_state(case, finding, need)),
        refuted_by="the import probe of the cache succeeds, or a look shows the main thread outside of this function",
        remedies=choose_remedies(known.remedies, need) if status is not Status.HYPOTHESIS else (),
        fingerprint=fingerprint(CompileCacheUnusable.id, culprit, sighting.outward),
    )


def _summarise(finding: _Finding, need: Need) -> str:
    known, probe, cwd = finding.known, finding.probe, finding.sighting.process.cwd
    start = f"{need.named} {known.meaning}"
    mend = f"; {known.upgrade} no longer does this" if known.upgrade else ""
    if probe is None:
        return f"{start}; its cache could not be probed{mend}."
    if probe.shadowed_by is not None:
        return f"{start}, and that import finds {probe.shadowed_by} instead of {probe.path}: remove it{mend}."
    if finding.is_import_broken:
        return f"{start}, and {cwd or 'its directory'} is not on the import path: start with PYTHONPATH={cwd or 'DIR'}{mend}."
    if finding.is_write_broken:
        return f"{start}, and {probe.path} cannot be written: {'; '.join(probe.problems) or 'reason unknown'}{mend}."
    return f"{start}; nothing is wrong with {probe.path} as far as could be seen{mend}."


def _state(case: Case, finding: _Finding, need: Need) -> Iterator[Statement]:
    sighting, probe, agreement = finding.sighting, finding.probe, finding.agreement
    pid = sighting.process.ref.pid
    yield Statement(f"the main thread of PID {pid} is in {sighting.frame}", "stack")
    if agreement.agree + agreement.silent + agreement.contradict:
        looks = agreement.agree + agreement.silent + agreement.contradict
        yield Statement(f"{agreement.agree} of {looks} looks show it there, {agreement.contradict} show it elsewhere", "looks")
    if finding.applies:
        issue = f" ({finding.known.issue})" if finding.known.issue else ""
        yield Statement(f"{need.named} is installed, which {finding.known.meaning}{issue}", "installed versions")
    if probe is None:
        return
    for problem in probe.problems:
        yield Statement(f"{probe.path}: {problem}", "cache probe")
    if finding.is_import_broken and probe.shadowed_by is None:
        there = "exists" if probe.exists else "is missing"
        yield Statement(
            f"{probe.path} {there}; to create it would not help: what is missing is {sighting.process.cwd or 'its parent'} "
            f"on the import path, which begins with {', '.join(probe.import_path[:2]) or 'nothing that is known'}",
            "cache probe",
        )
    if case.verdict is not None and case.verdict.quiet_s:
        yield Statement(f"nothing has moved for {case.verdict.quiet_s:.0f} s", "judge")
