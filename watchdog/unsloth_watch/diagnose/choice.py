"""From a case to one diagnosis: every rule is asked, the firmest answer is taken, the others are named."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from unsloth_watch.diagnose.case import Case, main_thread
from unsloth_watch.diagnose.fingerprint import fingerprint
from unsloth_watch.diagnose.frames import own_frame, python_frames
from unsloth_watch.diagnose.recall import recall
from unsloth_watch.diagnose.remedies import relaunch
from unsloth_watch.diagnose.rule import Rule
from unsloth_watch.diagnose.rules import RULES
from unsloth_watch.model.diagnosis import Culprit, Diagnosis, Statement, Status

_RANK = {Status.ESTABLISHED: 3, Status.SUPPORTED: 2, Status.HYPOTHESIS: 1, Status.UNKNOWN: 0}


def diagnose(case: Case, rules: Sequence[Rule] = RULES) -> Diagnosis:
    """Return the best explanation of a case; always returns one, ``unknown`` at worst.

    Args:
        case: What is known.
        rules: Rules to ask; of equals the earlier one is preferred.
    """
    found: list[Diagnosis] = []
    failures: list[str] = []
    for rule in rules:
        try:
            answer = rule.judge(case)
        except Exception as error:  # one rule's fault must not cost the others' answers; it is said in the diagnosis
            failures.append(f"{rule.id}: the rule itself failed ({error!r}); please report this")
            continue
        if answer is not None:
            found.append(answer)
    ranked = sorted(found, key=lambda answer: (_RANK[answer.status], answer.confidence), reverse=True)
    best = ranked[0] if ranked else _explain_unknown(case)
    others = [
        f"{other.cause}: {_compare(best, other)} ({other.status.value}, confidence {other.confidence:.2f}): {other.summary}"
        for other in ranked[1:]
    ]
    best = recall(case, best)
    return msgspec.structs.replace(best, alternatives=(*best.alternatives, *others, *failures))


def _compare(best: Diagnosis, other: Diagnosis) -> str:
    """Return why one answer is left in favour of another."""
    if _RANK[best.status] > _RANK[other.status] or best.confidence > other.confidence:
        return f"less firm than {best.cause}"
    return f"as firm, but says less than {best.cause}"


def _explain_unknown(case: Case) -> Diagnosis:
    root = case.root
    thread = main_thread(root) if root is not None else None
    frames = python_frames(thread.frames) if thread is not None else ()
    own = own_frame(frames)
    culprit = None
    statements = [Statement(f"could not be had: {what}", "capture") for what in case.evidence.missing[:5]]
    if root is not None:
        culprit = Culprit(kind="process", pid=root.ref.pid, frame=str(own) if own is not None else None)
        doing = thread.wait if thread is not None and thread.wait else f"state {root.state}"
        statements.insert(0, Statement(f"the main thread of PID {root.ref.pid}: {doing}", "/proc"))
    below = f", below it in {frames[0]}" if frames and own is not frames[0] else ""
    where = f" The main thread is in {own}{below}." if own is not None else ""
    if root is not None and own is None and thread is not None and thread.wait:  # without Python there is no frame to name
        where = f" PID {root.ref.pid}: {thread.wait}."
    return Diagnosis(
        cause="unknown",
        title="No known cause",
        summary=f"None of the known causes is supported by what was seen.{where} Please look at the stacks.",
        status=Status.UNKNOWN,
        confidence=0.0,
        culprit=culprit,
        evidence=tuple(statements),
        remedies=(relaunch("an unknown cause may be gone at the next attempt"),),
        fingerprint=fingerprint("unknown", Culprit(kind="process"), frames),
    )
