"""``exit-stall``: the work is done, and the interpreter does not end."""

from __future__ import annotations

from unsloth_watch.diagnose.blame import explain, make_culprit, tell, trace
from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.waitremedies import mend_exit
from unsloth_watch.model.diagnosis import Diagnosis, Statement, Status
from unsloth_watch.waits.exiting import is_exiting
from unsloth_watch.waits.want import Aim

_WAITS = frozenset({Aim.THREAD, Aim.WORKERS, Aim.EVENT, Aim.QUEUE, Aim.FUTURE, Aim.CHILD, Aim.LOCK, Aim.CHANNEL, Aim.SHARED_LOCK})


class ExitStall:
    """A main thread in the exit of the interpreter that waits for a thread, a pool or a child.

    What it waits for is the culprit; that others end with it is its effect. A full pipe at the exit of a worker is `pipe-deadlock`.
    """

    id = "exit-stall"

    def judge(self, case: Case) -> Diagnosis | None:
        """Return what keeps it; None where no process of the chain is ending."""
        found = trace(case)
        if found is None:
            return None
        exiting = [
            key
            for key in found.chain.keys
            if found.graph.scene.threads[key].is_main
            and is_exiting(found.graph.scene.threads[key], found.graph.scene.processes[key[0]])
        ]
        is_pipe = any(found.graph.scene.waits[key].is_write for key in found.chain.cycle)
        if not exiting or is_pipe or found.graph.wants[exiting[0]].aim not in _WAITS:
            return None
        first = exiting[0]
        is_moving = found.want.aim in (Aim.RUNNING, Aim.TIMED)
        status = Status.SUPPORTED if is_moving else Status.ESTABLISHED
        if not found.is_lasting and (is_moving or found.find_doubt() is not None):
            status = Status.HYPOTHESIS  # a last upload takes its time
        kept = f", and {tell(found, found.end)}" if found.end != first else ""
        return explain(
            found,
            ExitStall.id,
            "The program is done and does not end",
            f"{found.graph.name(first)} has finished its code, is ending and {found.graph.wants[first].words}"
            f"{f' in {found.graph.wants[first].frame}' if found.graph.wants[first].frame else ''}{kept}.",
            status,
            confidence=0.95 if status is Status.ESTABLISHED else None,
            culprit=make_culprit(found, found.end),
            refuted_by="that thread ends and the interpreter with it",
            remedies=mend_exit(),
            more=(
                Statement(f"no frame of the main script is left in the main thread of PID {first[0]}", f"stack of PID {first[0]}"),
            ),
        )
