"""``stale-lock-file``: the program waits until a lock file goes away whose maker is gone."""

from __future__ import annotations

from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.fingerprint import fingerprint
from unsloth_watch.diagnose.frames import Sighting, compare_looks, find_frames
from unsloth_watch.diagnose.knowledge import KnownFrame, known_frames
from unsloth_watch.diagnose.remedies import Need, choose_remedies
from unsloth_watch.diagnose.rule import CONFIDENCE
from unsloth_watch.model.diagnosis import Culprit, Diagnosis, Statement, Status
from unsloth_watch.model.evidence import LockFile
from unsloth_watch.model.verdict import State


class StaleLockFile:
    """A wait for a lock whose file nobody has open, or whose named owner is dead."""

    id = "stale-lock-file"

    def judge(self, case: Case) -> Diagnosis | None:
        """Return the wait; None where nobody waits so, or the lock file has a living owner."""
        for known in known_frames("lock-exists"):
            for sighting in find_frames(case.processes, known.module, known.functions):
                files = [file for probe in case.caches(known.cache) for file in probe.lock_files]
                orphans = [file for file in files if _is_orphan(file)]
                if orphans or not files:
                    return _explain(case, known, sighting, orphans)
        return None


def _is_orphan(file: LockFile) -> bool:
    """Whether nobody can be said to hold it: its maker keeps it open (``FileBaton``) or is named in it (soft locks)."""
    return file.is_owner_alive is False or (file.is_owner_alive is None and file.openers == ())


def _explain(case: Case, known: KnownFrame, sighting: Sighting, orphans: list[LockFile]) -> Diagnosis:
    is_lasting = compare_looks(case, sighting).is_steady or (case.verdict is not None and case.verdict.state is State.HUNG)
    # Never more than supported: a builder on another host, or one that closed the file, cannot be excluded.
    status = Status.SUPPORTED if len(orphans) == 1 and is_lasting else Status.HYPOTHESIS
    file = orphans[0] if orphans else None
    culprit = Culprit(
        kind="path",
        pid=sighting.process.ref.pid,
        thread=sighting.thread.name,
        frame=str(sighting.frame),
        path=file.path if file else None,
    )
    need = Need(sighting.process, known.library, case.version(known.library), lock_file=file)
    statements = [Statement(f"thread {sighting.thread.name} of PID {sighting.process.ref.pid} is in {sighting.frame}", "stack")]
    for orphan in orphans:
        owner = "nobody who could be asked has it open" if orphan.owner is None else f"its owner, PID {orphan.owner}, is dead"
        statements.append(Statement(f"{orphan.path} is {orphan.age_s:.0f} s old and {owner}", "cache probe"))
    found = f"{file.path}, whose maker is gone" if file else "a lock file that could not be found"
    mend = (
        "move it aside once every waiting process has ended, then start again"
        if file
        else "look for a file named lock in its cache"
    )
    return Diagnosis(
        cause=StaleLockFile.id,
        title="A lock file was left behind",
        summary=f"PID {sighting.process.ref.pid} {known.meaning}, {found}: {mend}.",
        status=status,
        confidence=CONFIDENCE[status],
        culprit=culprit,
        evidence=tuple(statements),
        refuted_by="a process has the lock file open, or the file changes",
        remedies=choose_remedies(known.remedies, need),
        fingerprint=fingerprint(StaleLockFile.id, culprit, sighting.outward),
    )
