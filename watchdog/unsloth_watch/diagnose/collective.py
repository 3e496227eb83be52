"""``collective-mismatch``: ranks wait in a collective that another rank has not entered."""

from __future__ import annotations

from unsloth_watch.diagnose.blame import Trace, explain, make_culprit, tell, trace
from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.missingrank import explain_missing
from unsloth_watch.diagnose.waitremedies import mend_ranks
from unsloth_watch.model.diagnosis import Diagnosis, Status
from unsloth_watch.waits.scene import Key
from unsloth_watch.waits.want import Aim


class CollectiveMismatch:
    """A rank in a collective, and another one elsewhere, in another collective, dead, or never started.

    Established where the outlier is seen. Where every process of this host is in the same collective, the one that is missing is on
    another host or was never started: supported when the job is still forming its group, a hypothesis otherwise.
    """

    id = "collective-mismatch"

    def judge(self, case: Case) -> Diagnosis | None:
        """Return the outlier; None where no rank of the chain is in a collective."""
        found = trace(case)
        if found is None:
            return None
        inside = [key for key in found.chain.keys if found.graph.wants[key].aim is Aim.COLLECTIVE]
        if not inside:
            return None
        first = inside[0]
        others = [edge.waker for edge in found.graph.edges[first] if edge.waker is not None]
        if found.chain.cycle or (others and all(found.graph.wants[other].aim is Aim.COLLECTIVE for other in others)):
            return _explain_different(found, [first, *others])
        if others:
            return _explain_outlier(found, first)
        return explain_missing(found, first)


def _explain_outlier(found: Trace, first: Key) -> Diagnosis | None:
    want = found.graph.wants[found.end]
    if want.aim is Aim.STOPPED:
        return None
    status = Status.ESTABLISHED if want.aim not in (Aim.RUNNING, Aim.TIMED) else Status.SUPPORTED
    if not found.is_lasting and found.find_doubt() is not None:
        status = Status.HYPOTHESIS  # ranks are late now and then
    name = found.graph.wants[first].name
    return explain(
        found,
        CollectiveMismatch.id,
        "A rank has not entered the collective that the others wait in",
        f"{found.graph.name(first)} waits in {name}, and {tell(found, found.end)} and has not entered it.",
        status,
        culprit=make_culprit(found, found.end),
        refuted_by="that rank enters the collective",
        remedies=mend_ranks(),
    )


def _explain_different(found: Trace, keys: list[Key]) -> Diagnosis:
    places = [f"{found.graph.name(key)} is in {found.graph.wants[key].name} at {found.graph.wants[key].frame}" for key in keys]
    words = "; ".join(dict.fromkeys(places))
    odd = _find_odd(found, keys)
    return explain(
        found,
        CollectiveMismatch.id,
        "Ranks are in different collectives",
        f"The ranks are in different collectives and wait for each other: {words}.",
        Status.ESTABLISHED if found.is_lasting else Status.HYPOTHESIS,  # ranks are not captured at one moment
        confidence=0.95 if found.is_lasting else None,
        culprit=make_culprit(found, odd),
        refuted_by="the ranks turn out to be of different groups, each of which is complete",
        remedies=mend_ranks(),
    )


def _find_odd(found: Trace, keys: list[Key]) -> Key:
    """Return the rank whose place the fewest share; of equals the lowest rank, which most often does something alone."""
    places = [str(found.graph.wants[key].frame) for key in keys]
    return min(keys, key=lambda key: (places.count(str(found.graph.wants[key].frame)), found.graph.ranks.get(key[0], key[0])))
