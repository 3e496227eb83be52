"""Surveys that came at a bad moment: somebody in a known loop was awake, for the milliseconds that a look takes.

datasets asks its manager twenty times a second; under load a third of all surveys met one of the two at it. Such a survey says
neither that the job can go on nor that it cannot. What it would have said is asked of it with those few as the survey before had
them: where nothing else stands against a proof then, the earlier surveys still count, and this one does not.
"""

from __future__ import annotations

import msgspec

from unsloth_watch.model.evidence import Evidence, ProcessEvidence, ThreadEvidence
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.waits.wait import find_loop_depth, find_outer_loop


def settle(before: Evidence, now: Evidence) -> Evidence | None:
    """Return a survey with those who were awake in a loop as the earlier one had them at rest; None where there were none.

    Args:
        before: A survey in which they waited.
        now: The survey.
    """
    rested = {(process.ref, thread.tid): thread for process in before.processes for thread in process.threads}
    settled = tuple(_settle(process, rested) for process in now.processes)
    if settled == now.processes:
        return None
    # Nobody outside was asked where somebody inside was awake.
    return msgspec.structs.replace(now, processes=settled, outsiders=before.outsiders, unseen=before.unseen)


def _settle(process: ProcessEvidence, rested: dict[tuple[ProcessRef, int], ThreadEvidence]) -> ProcessEvidence:
    threads = []
    for thread in process.threads:
        earlier = rested.get((process.ref, thread.tid))
        is_same = earlier is not None and (_is_in_same_loop(earlier, thread) or _asks_from_same_place(earlier, thread))
        threads.append(earlier if earlier is not None and is_same else thread)
    return msgspec.structs.replace(process, threads=tuple(threads))


def _is_in_same_loop(earlier: ThreadEvidence, later: ThreadEvidence) -> bool:
    """Whether a thread that waited in a known loop is awake in that loop now, called from the same place."""
    rest, depth = find_loop_depth(earlier), find_outer_loop(later)
    if rest is None or depth is None or (find_loop_depth(later) is not None and later.state == "S" and later.call is not None):
        return False
    # The line in the loop itself may be any of it.
    same = [(frame.function, frame.file) for frame in (earlier.frames[rest], later.frames[depth])]
    outer = [
        [(frame.function, frame.file, frame.line) for frame in frames]
        for frames in (earlier.frames[rest + 1 :], later.frames[depth + 1 :])
    ]
    return same[0] == same[1] and outer[0] == outer[1]


def _asks_from_same_place(earlier: ThreadEvidence, later: ThreadEvidence) -> bool:
    """Whether a thread that asked for the interpreter lock is awake at the same place, to ask again."""
    is_awake = earlier.awaits_gil and not later.awaits_gil and later.state == "R"
    return is_awake and bool(later.frames) and later.frames == earlier.frames[: len(later.frames)]
