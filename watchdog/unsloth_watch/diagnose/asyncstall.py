"""``async-stall``: an event loop with tasks that wait, and nothing left that could wake it."""

from __future__ import annotations

from unsloth_watch.diagnose.blame import explain, make_culprit, tell, trace
from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.rule import CONFIDENCE
from unsloth_watch.diagnose.waitremedies import mend_wait
from unsloth_watch.model.diagnosis import Diagnosis, Status
from unsloth_watch.waits.wait import Class
from unsloth_watch.waits.want import Aim


class AsyncStall:
    """A main thread that waits in its loop's selector without a timeout, for nothing but the loop's own wake-up socket.

    A loop that listens on other sockets may be a server in want of clients: then it is no more than a hypothesis.
    """

    id = "async-stall"

    def judge(self, case: Case) -> Diagnosis | None:
        """Return the loop; None where it has a timer, or somebody works for it."""
        found = trace(case)
        if found is None or found.is_crossing or found.want.aim is not Aim.LOOP:
            return None
        wait = found.graph.scene.waits[found.end]
        if wait.kind is not Class.CHANNEL:
            return None
        own = [target for target in wait.targets if not target.startswith("anon_inode:")]
        is_bare = len(own) <= 1  # the socket by which other threads wake it
        status, confidence = found.weigh_silence() if is_bare else (Status.HYPOTHESIS, CONFIDENCE[Status.HYPOTHESIS])
        return explain(
            found,
            AsyncStall.id,
            "An event loop has nothing left to wait for",
            f"{tell(found, found.end)}: tasks are pending, no timer is set, and nobody else can wake the loop.",
            status,
            confidence=confidence,
            culprit=make_culprit(found, found.end),
            refuted_by="the loop wakes",
            remedies=mend_wait(),
        )
