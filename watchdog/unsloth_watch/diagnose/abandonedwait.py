"""``abandoned-wait``: the program waits for a signal, an item or a result that no living thread can give."""

from __future__ import annotations

from unsloth_watch.diagnose.blame import Trace, explain, make_culprit, tell, trace
from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.rule import CONFIDENCE
from unsloth_watch.diagnose.waitremedies import mend_wait
from unsloth_watch.model.diagnosis import Diagnosis, Status
from unsloth_watch.model.evidence import ProcessEvidence, ThreadEvidence
from unsloth_watch.waits.exiting import is_exiting
from unsloth_watch.waits.scene import Key
from unsloth_watch.waits.want import Aim

AIMS = frozenset({Aim.EVENT, Aim.QUEUE, Aim.FUTURE, Aim.SIGNAL})


class AbandonedWait:
    """The chain ends at an event, condition, semaphore, barrier, queue, future or signal, and nobody is left to give it.

    Threads that go on by the clock or run could be the ones: they keep it from being more than supported, and before the judge
    holds the job to be hung from being more than a hypothesis. Established only with the judge's proof.
    """

    id = "abandoned-wait"

    def judge(self, case: Case) -> Diagnosis | None:
        """Return the wait; None where the chain ends elsewhere or in a child (that is `stuck-worker`)."""
        found = trace(case)
        if found is None or found.chain.cycle:
            return None
        key = _find_wait(found)
        if key is None or key[0] != found.chain.keys[0][0] or is_exiting(*_main(found)):
            return None
        if found.graph.wants[key].aim is Aim.CHANNEL:  # a server may wait for its first client as long as it likes
            return _explain(found, key, Status.HYPOTHESIS, CONFIDENCE[Status.HYPOTHESIS])
        return _explain(found, key, *found.weigh_silence())


def _main(found: Trace) -> tuple[ThreadEvidence, ProcessEvidence]:
    key = found.chain.keys[0]
    return found.graph.scene.threads[key], found.graph.scene.processes[key[0]]


def _find_wait(found: Trace) -> Key | None:
    """Return the wait at the end; also the one before the end, where what follows runs on and may be anybody."""
    if found.want.aim in AIMS or (found.want.aim is Aim.CHANNEL and found.thread.call in ("accept", "accept4")):
        return found.end
    if found.want.aim is Aim.RUNNING and found.chain.edges and not found.chain.edges[-1].is_sure:
        before = found.chain.keys[-2]
        return before if found.graph.wants[before].aim in AIMS and found.is_lasting else None
    return None


def _explain(found: Trace, key: Key, status: Status, confidence: float) -> Diagnosis:
    free = [found.graph.scene.threads[other].name for other in found.list_free() if other != key]
    rest = f"the threads that still run ({', '.join(free[:3])}) have not done it" if free else "no other thread has anything to do"
    return explain(
        found,
        AbandonedWait.id,
        "Nobody is left to end a wait",
        f"{tell(found, key)}, and {rest}: whoever should have done it has failed, ended, or did it before the wait began.",
        status,
        confidence=confidence,
        culprit=make_culprit(found, key),
        refuted_by="a thread or process that is alive turns out to be on its way to signal",
        remedies=mend_wait(),
    )
