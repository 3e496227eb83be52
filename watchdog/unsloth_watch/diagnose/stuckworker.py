"""``stuck-worker``: the program waits for a child that lives and is itself stuck; the child is to blame, by its own cause."""

from __future__ import annotations

from unsloth_watch.diagnose.blame import Trace, explain, make_culprit, tell, trace
from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.threaddeadlock import is_deadlock, tell_circle
from unsloth_watch.diagnose.waitremedies import mend_race, mend_wait
from unsloth_watch.model.diagnosis import Diagnosis, Status
from unsloth_watch.waits.exiting import is_exiting
from unsloth_watch.waits.want import Aim

_WAITS = frozenset(
    {Aim.EVENT, Aim.QUEUE, Aim.FUTURE, Aim.SIGNAL, Aim.LOCK, Aim.MUTEX, Aim.LOOP, Aim.IMPORT, Aim.THREAD, Aim.UNKNOWN}
)


class StuckWorker:
    """The chain crosses into another process of the job and ends there, at a wait that nobody ends.

    Its own cause is named in the summary. Waits with a mechanism of their own (a fork, a full pipe, a stop, a question) are left to
    their rules, which say more.
    """

    id = "stuck-worker"

    def judge(self, case: Case) -> Diagnosis | None:
        """Return the child; None where the chain does not cross, or ends where another rule says more."""
        found = trace(case)
        if found is None or not found.is_crossing or _is_for_others(found):
            return None
        if is_deadlock(found):
            return _explain(
                found, "thread-deadlock", tell_circle(found), Status.ESTABLISHED if found.chain.is_sure else Status.SUPPORTED
            )
        if found.chain.cycle:
            return _explain_silence(found)
        if found.want.aim not in _WAITS or (found.want.aim is Aim.UNKNOWN and found.want.address is None):
            return _explain_other(found)
        own = {Aim.LOOP: "async-stall", Aim.LOCK: "thread-deadlock", Aim.MUTEX: "thread-deadlock", Aim.IMPORT: "import-deadlock"}
        words = f"{tell(found, found.end)}, and nobody in that process can end that wait"
        return _explain(found, own.get(found.want.aim, "abandoned-wait"), words, *found.weigh_silence())


def _is_for_others(found: Trace) -> bool:
    """Whether another rule says more: of ranks, of an exit, and of a forked process, why nobody holds the lock."""
    keys, scene = found.chain.keys, found.graph.scene
    is_lock = found.want.aim in (Aim.LOCK, Aim.MUTEX, Aim.IMPORT, Aim.OPENMP)
    is_fork = is_lock and found.is_forked and not found.chain.cycle
    has_ranks = any(found.graph.wants[key].aim is Aim.COLLECTIVE for key in keys)
    return has_ranks or is_fork or any(is_exiting(scene.threads[key], scene.processes[key[0]]) for key in keys)


def _explain_silence(found: Trace) -> Diagnosis | None:
    """Return two processes that wait for the other to speak; full pipes are `pipe-deadlock`'s."""
    cycle = found.chain.cycle
    waits = [found.graph.scene.waits[key] for key in cycle]
    if len({key[0] for key in cycle}) < 2 or any(wait.is_write for wait in waits):
        return None
    words = "; ".join(tell(found, key) for key in cycle)
    # The kernel itself names the holders of file locks; that a process will not speak is only what is seen of it.
    if found.chain.is_sure and all(found.graph.wants[key].aim is Aim.FILE_LOCK for key in cycle):
        return _explain(found, "", f"{words}: each holds what the other waits for", Status.ESTABLISHED)
    status, confidence = found.weigh_silence()
    return _explain(found, "", f"{words}: each waits for the other to speak", status, min(confidence, 0.9))


def _explain_other(found: Trace) -> Diagnosis | None:
    """Return a child that computes or waits for something else, where the judge holds the job to be hung: no more than a hint."""
    if not found.is_lasting or found.want.aim not in (Aim.RUNNING, Aim.TIMED, Aim.UNKNOWN, Aim.OUTSIDE, Aim.CHANNEL):
        return None
    return _explain(found, "", tell(found, found.end), Status.HYPOTHESIS)


def _explain(found: Trace, own: str, words: str, status: Status, confidence: float | None = None) -> Diagnosis:
    chain = found.chain
    key = chain.cycle[0] if own == "thread-deadlock" and chain.cycle else found.end
    cause = f" (its own cause: {own})" if own else ""
    return explain(
        found,
        StuckWorker.id,
        "A child is stuck",
        f"{words}{cause}." if chain.cycle and not own else f"{tell(found, chain.keys[0])}, and a child is stuck: {words}{cause}.",
        status,
        confidence=confidence,
        culprit=make_culprit(found, key, path=next((edge.thing for edge in chain.edges if edge.thing.startswith("/")), None)),
        refuted_by="the child goes on, or the wait turns out to be for another process",
        remedies=mend_race(is_own=len(chain.cycle) == 1) if own == "thread-deadlock" else mend_wait(),
    )
