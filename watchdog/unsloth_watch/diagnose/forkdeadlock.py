"""``fork-deadlock``: a forked process waits for a lock that a thread held at the fork, which the fork did not copy."""

from __future__ import annotations

from unsloth_watch.diagnose.blame import Trace, explain, make_culprit, tell, trace
from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.waitremedies import mend_fork
from unsloth_watch.model.diagnosis import Diagnosis, Statement, Status
from unsloth_watch.waits.want import Aim

_AIMS = frozenset({Aim.LOCK, Aim.MUTEX, Aim.OPENMP, Aim.UNKNOWN, Aim.IMPORT})


class ForkDeadlock:
    """The chain ends in a forked process, at a lock that no thread of that process holds, or at an OpenMP team that it lacks.

    A fork copies the locks as they are and one thread only: a lock that another thread held stays locked for ever. Established
    where the lock is one of Python's or of native code and the process has no other thread that could hold it.
    """

    id = "fork-deadlock"

    def judge(self, case: Case) -> Diagnosis | None:
        """Return the forked process; None where the chain ends elsewhere, or the lock's holder is seen."""
        found = trace(case)
        if found is None or not found.is_crossing or found.want.aim not in _AIMS or found.chain.cycle or not found.is_forked:
            return None
        if found.want.address is None:
            return None
        # Threads that it started itself after the fork, a queue's feeder for example, hold none of the inherited locks at rest.
        is_alone = not found.graph.busy_of(found.end[0], found.end) and not found.list_free_of(found.end[0])
        if found.want.aim is Aim.UNKNOWN:
            return _explain(found, Status.HYPOTHESIS, 0.4)
        if found.want.aim is Aim.LOCK and not found.want.name:
            return _explain(found, Status.SUPPORTED, 0.7)
        return _explain(found, Status.ESTABLISHED, 0.95) if is_alone else _explain(found, Status.SUPPORTED, 0.75)


def _explain(found: Trace, status: Status, confidence: float) -> Diagnosis:
    parent = found.graph.parent_of(found.end[0])
    threads = [thread.name for thread in parent.threads if not thread.is_main] if parent is not None else []
    more = (
        Statement(f"PID {found.end[0]} was forked from PID {found.process.ppid} without an exec", "stack and command line"),
        *(
            [Statement(f"its parent has {len(threads)} other threads: {', '.join(threads[:6])}", "/proc/PID/task")]
            if threads
            else []
        ),
    )
    what = (
        "which needs threads that the fork did not copy"
        if found.want.aim is Aim.OPENMP
        else "which was held at the fork by a thread that it lacks"
    )
    return explain(
        found,
        ForkDeadlock.id,
        "A forked process waits for a thread that it does not have",
        f"{tell(found, found.end)}, {what}: start workers by spawn, or before other threads.",
        status,
        confidence=confidence,
        culprit=make_culprit(found, found.end),
        refuted_by="a thread of the forked process holds the lock, or the process goes on",
        remedies=mend_fork(found),
        more=more,
    )
