"""Stack groups: threads with the same stack are one group, so that 64 waiting ranks are one picture and the odd one is another."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from unsloth_watch.model.diagnosis import Culprit
from unsloth_watch.model.evidence import Evidence, Frame, ProcessEvidence, ThreadEvidence
from unsloth_watch.waits.ranks import find_ranks
from unsloth_watch.waits.want import Aim, read_want

OUTLIER_SHARE = 0.25
"""A group is an outlier when it has at most this share of its peers; seven of eight ranks in one stack is the usual picture."""
# Innermost frames that only say "waits"; what is above them says for what.
_WAITING = re.compile(
    r"wait|_?wait_for_tstate_lock|acquire|__enter__|get|_?recv\w*|_?poll|select|accept|sleep|join|read\w*|result|get_nowait|epoll_wait"
)
_FOLDED = (
    ("concurrent/futures/thread.py", "_worker", "idle pool thread"),
    ("multiprocessing/pool.py", "worker", "idle pool worker"),
    ("concurrent/futures/process.py", "_process_worker", "idle pool worker"),
    ("torch/utils/data/_utils/worker.py", "_worker_loop", "idle data loader worker"),
    ("torch/_inductor/compile_worker/subproc_pool.py", "_read_thread", "compile pool's reader"),
    ("torch/_inductor/compile_worker", "", "compile pool"),
    ("multiprocessing/queues.py", "_feed", "queue feeder"),
    ("multiprocessing/resource_tracker.py", "", "resource tracker"),
    ("multiprocessing/pool.py", "_handle", "pool's own thread"),
    ("multiprocessing/forkserver.py", "", "fork server"),
    ("tqdm/_monitor.py", "", "monitor of tqdm"),
    ("wandb/", "", "wandb"),
    ("tensorboard/", "", "tensorboard"),
    ("sentry_sdk/", "", "sentry"),
    ("posthog/", "", "posthog"),
    ("ipykernel/", "", "Jupyter"),
    ("debugpy/", "", "debugger"),
    ("pydevd", "", "debugger"),
)


def group_stacks(evidence: Evidence, culprit: Culprit | None) -> list[dict[str, Any]]:
    """Merge identical stacks of all threads of all processes.

    Args:
        evidence: The capture.
        culprit: Whom the diagnosis blames; its group is marked, comes first and is never folded.

    Returns:
        Groups as in the report: the culprit's first, then outliers, main threads, other threads, and folded ones last.
    """
    ranks = find_ranks(evidence.processes)
    members: dict[tuple[Any, ...], list[tuple[ProcessEvidence, ThreadEvidence]]] = {}
    for process in evidence.processes:
        for thread in process.threads:
            members.setdefault(_identify(thread), []).append((process, thread))
    groups = [_build_group(pairs, ranks, culprit) for pairs in members.values()]
    _mark_outliers(groups, evidence, ranks)
    groups.sort(key=_order)
    for number, group in enumerate(groups, start=1):
        group["id"] = number
    return groups


def format_ranges(numbers: Iterable[int]) -> str:
    """Return ``0–6, 9`` for 0, 1, 2, 3, 4, 5, 6, 9."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}–{part[-1]}" for part in parts)


def frame_record(frame: Frame) -> dict[str, Any]:
    """Return a frame as plain data; locals only where they were captured."""
    record: dict[str, Any] = {"function": frame.function, "file": frame.file, "line": frame.line, "native": frame.is_native}
    if frame.locals:
        record["locals"] = dict(frame.locals)
    return record


def _identify(thread: ThreadEvidence) -> tuple[Any, ...]:
    if thread.frames:
        return tuple((frame.function, frame.file, frame.line) for frame in thread.frames)
    # Without Python frames a thread is known by its name's kind (pt_autograd_0…7) and by what it waits in.
    return ("", re.sub(r"\d+", "N", thread.name), thread.wait_channel, thread.is_main)


def _build_group(
    pairs: Sequence[tuple[ProcessEvidence, ThreadEvidence]], ranks: Mapping[int, int], culprit: Culprit | None
) -> dict[str, Any]:
    thread = pairs[0][1]
    is_culprit = culprit is not None and any(_is_culprit(process, one, culprit) for process, one in pairs)
    folded = None if is_culprit else _find_reason(*pairs[0])
    group_ranks = {ranks[process.ref.pid] for process, one in pairs if one.is_main and process.ref.pid in ranks}
    waits = sorted({one.wait for _, one in pairs if one.wait})
    return {
        "id": 0,
        "count": len(pairs),
        "processes": len({process.ref for process, _ in pairs}),
        "ranks": format_ranges(group_ranks),
        "is_main": any(one.is_main for _, one in pairs),
        "is_culprit": is_culprit,
        "is_outlier": False,
        "folded": folded,
        "wait": waits[0] if len(waits) == 1 else None,
        "members": [
            {
                "pid": process.ref.pid,
                "tid": one.tid,
                "thread": one.name,
                "rank": ranks.get(process.ref.pid),
                "state": one.state,
                "has_gil": one.has_gil,
            }
            for process, one in pairs
        ],
        "frames": [frame_record(frame) for frame in thread.frames],
    }


def _is_culprit(process: ProcessEvidence, thread: ThreadEvidence, culprit: Culprit) -> bool:
    if culprit.pid is not None and culprit.pid != process.ref.pid:
        return False
    if culprit.frame is not None:
        return any(str(frame) == culprit.frame for frame in thread.frames)
    if culprit.thread is not None:
        return thread.name == culprit.thread
    return culprit.pid is not None and thread.is_main


def _find_reason(process: ProcessEvidence, thread: ThreadEvidence) -> str | None:
    """Say why a stack need not be looked at: an idle pool, a monitor, a thread without Python; None for one that matters."""
    if not thread.frames:
        return None if thread.is_main else "no Python stack"
    for frame in thread.frames:
        for fragment, function, reason in _FOLDED:
            if fragment in frame.file and frame.function.startswith(function):
                return reason
        if not frame.is_native and not _WAITING.fullmatch(frame.function):
            break
    want = read_want(thread, process)
    return want.words if want.aim is Aim.IDLE and not thread.is_main else None


def _mark_outliers(groups: Sequence[dict[str, Any]], evidence: Evidence, ranks: Mapping[int, int]) -> None:
    """Mark the few that differ from their peers: ranks among ranks, workers among the children of one parent."""
    parents = {process.ref.pid: process.ppid for process in evidence.processes}
    peers: dict[Any, list[dict[str, Any]]] = {}
    for group in groups:
        for member in group["members"]:
            if member["pid"] == member["tid"] or group["is_main"]:
                key = "rank" if member["pid"] in ranks else parents.get(member["pid"])
                peers.setdefault(key, []).append(group)
    for owners in peers.values():
        largest = max(owners.count(group) for group in owners)
        if len(owners) < 3 or largest * 2 <= len(owners):
            continue  # no majority, nothing is odd
        for group in owners:
            if owners.count(group) <= OUTLIER_SHARE * len(owners) or (len(owners) == 3 and owners.count(group) == 1):
                group["is_outlier"] = True


def _order(group: Mapping[str, Any]) -> tuple[Any, ...]:
    first = group["members"][0]
    return (
        not group["is_culprit"],
        group["folded"] is not None,
        not group["is_outlier"],
        not group["is_main"],
        -group["count"],
        first["pid"],
        first["tid"],
    )
