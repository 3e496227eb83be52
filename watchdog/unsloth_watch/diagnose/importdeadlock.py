"""``import-deadlock``: a module that is being imported waits for a thread that imports it."""

from __future__ import annotations

from unsloth_watch.diagnose.blame import explain, make_culprit, tell, trace
from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.remedies import relaunch
from unsloth_watch.model.diagnosis import Diagnosis, Remedy, Status
from unsloth_watch.waits.want import Aim


class ImportDeadlock:
    """A circle with the lock of a module in it: Python breaks circles of module locks alone, not those with a join or a lock."""

    id = "import-deadlock"

    def judge(self, case: Case) -> Diagnosis | None:
        """Return the circle; None where no thread of the chain waits for a module."""
        found = trace(case)
        if found is None or found.is_crossing:
            return None
        waiting = [key for key in found.chain.keys if found.graph.wants[key].aim is Aim.IMPORT]
        if not waiting:
            return None
        status = Status.ESTABLISHED if found.chain.cycle and found.chain.is_sure else Status.SUPPORTED
        others = [key for key in found.chain.cycle if key not in waiting]
        advice = Remedy(
            "no-thread-at-import",
            "a module has to be imported before its threads can import from it",
            "advice",
            advice="start the thread after the import, in a function that the program calls",
        )
        return explain(
            found,
            ImportDeadlock.id,
            "An import waits for a thread that waits for the import",
            "; ".join(tell(found, key) for key in [*waiting[:2], *others[:2]]) + ".",
            status,
            culprit=make_culprit(found, others[0] if others else waiting[0]),
            refuted_by="the import ends",
            remedies=(relaunch("whether two imports meet is a race, so a fresh start may pass"), advice),
        )
