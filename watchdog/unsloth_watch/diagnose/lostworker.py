"""``lost-worker``: the program waits for an answer from a process that has died."""

from __future__ import annotations

from unsloth_watch.diagnose.blame import Trace, explain, make_culprit, tell, trace
from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.waitremedies import mend_worker
from unsloth_watch.model.diagnosis import Culprit, Diagnosis, Statement, Status
from unsloth_watch.model.evidence import ProcessEvidence
from unsloth_watch.waits.place import is_library, is_place
from unsloth_watch.waits.scene import Key
from unsloth_watch.waits.wakers import is_shared
from unsloth_watch.waits.want import Aim

_RESPAWNS = (("/multiprocessing/pool.py", "_maintain_pool"), ("/multiprocess/pool.py", "_maintain_pool"))
_LATE_TICKS = 50
"""Clock ticks, half a second: workers of one pool start within some milliseconds of each other, replaced ones when one has died."""


class LostWorker:
    """Nobody is left who could answer: a zombie, a pool of idle workers that replaced one, a shared lock without a holder.

    Established with a body: a zombie behind a pipe that nobody else writes, or a replaced worker in an idle pool.
    """

    id = "lost-worker"

    def judge(self, case: Case) -> Diagnosis | None:
        """Return the wait and who died; None where somebody alive could answer."""
        found = trace(case)
        if found is None or found.chain.cycle:
            return None
        aim, pids = found.want.aim, {key[0] for key in found.chain.keys}
        dead = [one for one in case.processes if one.state in ("Z", "X") and one.ppid in pids]
        if aim is Aim.ENDED and len(found.chain.keys) > 1:
            return _explain(found, Status.ESTABLISHED, dead or [found.process])
        if any(edge.waker is not None for edge in found.graph.edges[found.end]):
            return None
        if aim is Aim.CHANNEL and dead and found.has_only_own_end:
            # Somebody who could not be asked may have the other end: a process of another user.
            firm = Status.SUPPORTED if found.case.evidence.unseen else Status.ESTABLISHED
            status = firm if found.is_lasting or not found.list_free() else Status.HYPOTHESIS
            return _explain(found, status, dead, confidence=0.9 if status is Status.SUPPORTED else None)
        # A manager waits for an item on behalf of its client.
        is_served = any(is_place(frame, "/managers.py", "serve_client") for frame in found.thread.frames)
        is_between = (aim is Aim.EVENT and is_shared(found.thread)) or (aim is Aim.QUEUE and is_served)
        if aim is Aim.SHARED_LOCK or (dead and is_between):
            status, confidence = found.weigh_silence()
            if not dead and status is Status.ESTABLISHED:
                # That nobody lets go of it is proven, not why: somebody alive may have taken it where no source line shows it.
                status, confidence = Status.SUPPORTED, 0.7
            return _explain(found, status, dead, confidence=min(confidence + 0.02, 0.98))  # a body outweighs `abandoned-wait`
        return _judge_pool(found, dead) if aim is Aim.WORKERS else None


def _judge_pool(found: Trace, dead: list[ProcessEvidence]) -> Diagnosis:
    """Return what became of a pool whose workers are all idle while its owner waits for a result."""
    replaced = _find_replaced(found, found.end[0])
    status = Status.SUPPORTED if found.is_lasting else Status.HYPOTHESIS
    if dead or replaced:
        return _explain(found, Status.ESTABLISHED if found.is_lasting else Status.SUPPORTED, dead, replaced, 0.92)
    return _explain(found, status, [])


def _find_asker(found: Trace) -> Key:
    """Return the last of the chain that is in code of the user: a manager that waits for its client is nowhere in it."""
    wants = found.graph.wants
    own = [key for key in found.chain.keys if (frame := wants[key].frame) is not None and not is_library(frame.file)]
    return own[-1] if own else found.end


def _tell_end(process: ProcessEvidence) -> str:
    status = process.wait_status
    if status is None:
        return "has died"
    return f"was killed by signal {status & 0x7F}" if status & 0x7F else f"has ended with status {status >> 8}"


def _find_replaced(found: Trace, pid: int) -> list[ProcessEvidence]:
    """Return the workers of a pool that replaced others: started by the pool's keeper, or long after the first ones."""
    workers = [found.graph.scene.processes[child] for child in found.graph.children_of(pid)]
    workers = [one for one in workers if one.main_thread is not None and one.state not in ("Z", "X")]
    first = min((one.ref.start_ticks for one in workers), default=0)
    return [
        one
        for one in workers
        if one.main_thread is not None
        and (
            any(is_place(frame, *place) for frame in one.main_thread.frames for place in _RESPAWNS)
            or (one.ref.start_ticks - first > _LATE_TICKS and "pool.py" in str(one.main_thread.frames))
        )
    ]


def _explain(
    found: Trace,
    status: Status,
    dead: list[ProcessEvidence],
    replaced: list[ProcessEvidence] | None = None,
    confidence: float | None = None,
) -> Diagnosis:
    who = ", ".join(f"PID {one.ref.pid}" for one in dead)
    ends = {_tell_end(one) for one in dead}
    more = [Statement(f"PID {one.ref.pid}, a child of PID {one.ppid}, {_tell_end(one)}", "/proc/PID/stat") for one in dead]
    more += [
        Statement(
            f"PID {one.ref.pid} started later than the others: the pool replaced a worker that had died", "stack, /proc/PID/stat"
        )
        for one in replaced or []
    ]
    lost = "whoever should answer is gone"
    if found.want.aim is Aim.SHARED_LOCK:
        lost = "no living process is seen to hold it, so that whoever took it has probably died without letting go"
    if dead:
        lost = f"{who} {ends.pop() if len(ends) == 1 else 'have died'}"
    elif replaced:
        lost = "a worker of the pool has died and its task with it"
    asker = _find_asker(found)
    culprit = make_culprit(found, asker)
    if dead:
        culprit = Culprit(kind="process", pid=dead[0].ref.pid, thread=culprit.thread, frame=culprit.frame)
    return explain(
        found,
        LostWorker.id,
        "A worker has died",
        f"{tell(found, asker)}, but {lost}: look for what killed it (memory, a signal, an exception).",
        status,
        confidence=confidence,
        culprit=culprit,
        refuted_by="an answer comes, or a process that is alive turns out to be at work for it",
        remedies=mend_worker(),
        more=tuple(more),
    )
