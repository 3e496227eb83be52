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
from unsloth_watch.waits.want import NATIVE_WORDS, Aim

AIMS = frozenset({Aim.EVENT, Aim.QUEUE, Aim.FUTURE, Aim.SIGNAL})
_ELSEWHERE = frozenset({Aim.CHANNEL, Aim.OUTSIDE})
"""What others than the threads of the process may end: message queues, semaphores by name, FIFOs, watched directories."""


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
        if found.graph.wants[key].aim in _ELSEWHERE:  # a server may wait for its first client as long as it likes
            return _explain(found, key, Status.HYPOTHESIS, CONFIDENCE[Status.HYPOTHESIS])
        if is_native_wait(found) and (found.thread.frames or len(found.process.threads) > 1):
            return _explain_native(found, key)
        return _explain(found, key, *found.weigh_silence())


def _main(found: Trace) -> tuple[ThreadEvidence, ProcessEvidence]:
    key = found.chain.keys[0]
    return found.graph.scene.threads[key], found.graph.scene.processes[key[0]]


def _find_wait(found: Trace) -> Key | None:
    """Return the wait at the end; also the one before the end, where what follows runs on and may be anybody."""
    if found.want.aim in AIMS or (found.want.aim is Aim.CHANNEL and found.thread.call in ("accept", "accept4")):
        return found.end
    if is_native_wait(found) or (found.is_lasting and _is_elsewhere(found)):
        return found.end
    if found.want.aim is Aim.RUNNING and found.chain.edges and not found.chain.edges[-1].is_sure:
        before = found.chain.keys[-2]
        return before if found.graph.wants[before].aim in AIMS and found.is_lasting else None
    return None


def _is_elsewhere(found: Trace) -> bool:
    """Whether the chain ends at something that somebody else may end, and no stack tells more of it to another rule."""
    targets = found.graph.scene.waits[found.end].targets
    # Libraries of native code wake whoever waits by an eventfd: what they themselves wait for is not seen.
    is_blind = not found.thread.frames or (bool(targets) and all(target.startswith("eventfd ") for target in targets))
    return found.want.aim is Aim.OUTSIDE or (found.want.aim is Aim.CHANNEL and is_blind)


def is_native_wait(found: Trace) -> bool:
    """Whether the chain ends at a futex of native code: that of its first thread, or of one whose end is waited for."""
    is_joined = not found.chain.edges or found.graph.wants[found.chain.edges[-1].waiter].tid is not None
    aims = (Aim.UNKNOWN, Aim.IDLE) if is_joined else (Aim.UNKNOWN,)
    return found.want.address is not None and found.want.aim in aims


def _explain_native(found: Trace, key: Key) -> Diagnosis:
    """Return a wait in native code beside other threads: a futex does not say whether one holds it or should have woken it."""
    status, confidence = found.weigh_silence()
    others = len(found.process.threads) - 1
    beside = f"the other thread{'s' if others > 1 else ''} of its process"
    rest = "do not end that" if found.list_free() else f"wait{'' if others > 1 else 's'} too" if others else ""
    words = f"{beside} {rest}: one holds what it asks for, or did not wake it" if others else "it has no other thread"
    return explain(
        found,
        AbandonedWait.id,
        "A wait in native code does not end",
        f"{found.graph.name(key)} {NATIVE_WORDS}{_tell_place(found, key)}, and {words}. Its native stack names the place:"
        " gdb -p, or pystack beside unsloth-watch.",
        status if status is Status.HYPOTHESIS else Status.SUPPORTED,
        confidence=min(confidence, CONFIDENCE[Status.SUPPORTED]),
        culprit=make_culprit(found, key),
        refuted_by="a thread or process that is alive turns out to be on its way to wake it",
        remedies=mend_wait(),
    )


def _tell_place(found: Trace, key: Key) -> str:
    frame = found.graph.wants[key].frame
    return f" in {frame}" if frame is not None else ""


def _explain(found: Trace, key: Key, status: Status, confidence: float) -> Diagnosis:
    free = [found.graph.scene.threads[other].name for other in found.list_free() if other != key]
    rest = f"the threads that still run ({', '.join(free[:3])}) have not done it" if free else "no other thread has anything to do"
    why = "whoever should have done it has failed, ended, or did it before the wait began"
    if found.graph.wants[key].aim in _ELSEWHERE:
        why = "whoever should do it has failed, ended, or is not of this job"
    return explain(
        found,
        AbandonedWait.id,
        "Nobody is left to end a wait",
        f"{tell(found, key)}, and {rest}: {why}.",
        status,
        confidence=confidence,
        culprit=make_culprit(found, key),
        refuted_by="a thread or process that is alive turns out to be on its way to signal",
        remedies=mend_wait(),
    )
