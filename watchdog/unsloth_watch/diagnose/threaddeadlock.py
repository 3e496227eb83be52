"""``thread-deadlock``: threads of one process wait for each other's locks, or one waits for a lock that it holds itself."""

from __future__ import annotations

from unsloth_watch.diagnose.blame import Trace, explain, make_culprit, tell, trace
from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.waitremedies import mend_race
from unsloth_watch.model.diagnosis import Diagnosis, Status
from unsloth_watch.waits.want import Aim

LOCKS = frozenset({Aim.LOCK, Aim.MUTEX, Aim.SHARED_LOCK, Aim.FILE_LOCK})


class ThreadDeadlock:
    """A circle of threads of one process with at least one lock in it.

    Established where every step is named by the source lines or by the mutex itself. Without source lines, a lock whose holder is
    not seen while other threads want locks too is supported only.
    """

    id = "thread-deadlock"

    def judge(self, case: Case) -> Diagnosis | None:
        """Return the circle; None where there is none, or where it is in a child (that is `stuck-worker`)."""
        found = trace(case)
        if found is None or found.is_crossing:
            return None
        if is_deadlock(found):
            return _explain(found, Status.ESTABLISHED if found.chain.is_sure else Status.SUPPORTED)
        if found.want.aim is Aim.MUTEX and not found.is_forked:
            return _explain(found, Status.SUPPORTED)
        is_alone = sum(want.aim is Aim.LOCK for want in found.graph.wants.values()) < 2
        if found.want.aim is Aim.LOCK and not found.is_forked:
            return _explain(found, Status.HYPOTHESIS if is_alone or not found.is_lasting else Status.SUPPORTED)
        return None


def is_deadlock(found: Trace) -> bool:
    """Whether the chain ends in a circle of threads of one process with a lock in it, and no import."""
    cycle = found.chain.cycle
    aims = {found.graph.wants[key].aim for key in cycle}
    return bool(cycle) and len({key[0] for key in cycle}) == 1 and bool(aims & LOCKS) and Aim.IMPORT not in aims


def tell_circle(found: Trace) -> str:
    """Return the circle, or the one thread, in words."""
    cycle = found.chain.cycle
    if len(cycle) == 1:
        return f"{tell(found, cycle[0])}, and holds it already"
    if cycle:
        return "; ".join(tell(found, key) for key in cycle) + ": each holds what another one wants"
    return f"{tell(found, found.end)}, and whoever holds it does not let go"


def _explain(found: Trace, status: Status) -> Diagnosis:
    cycle = found.chain.cycle
    key = cycle[-1] if cycle else found.end
    want = found.graph.wants[key]
    return explain(
        found,
        ThreadDeadlock.id,
        "A thread waits for its own lock" if len(cycle) == 1 else "Threads wait for each other's locks",
        f"{tell_circle(found)}.",
        status,
        culprit=make_culprit(found, cycle[0] if cycle else key),
        refuted_by="one of these threads is somewhere else at a second look, or the lock turns out to be another object",
        remedies=mend_race(str(want.frame) if want.frame else "", is_own=len(cycle) == 1),
    )
