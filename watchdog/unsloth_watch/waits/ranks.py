"""Ranks of a distributed job: which process is which."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from unsloth_watch.model.evidence import ProcessEvidence
from unsloth_watch.waits.place import is_forked, is_place, own_frames

_RANK_NAMES = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "LOCAL_RANK")
_RANK_OPTION = re.compile(r"--(?:local[-_]|node[-_]|global[-_])?rank[= ](\d+)\b")
_MOST_RANKS = 1 << 20
# A larger size is no size: the largest jobs have some ten thousand ranks.
_STARTER = "/torch/multiprocessing/spawn.py"


def find_ranks(processes: Iterable[ProcessEvidence]) -> dict[int, int]:
    """Return PID → rank: the topmost process of each rank, since its children inherit the variable.

    From the variables of the usual launchers, else an option ``--rank``, else the order in which ``torch.multiprocessing`` started
    its children, which is that of their ranks.
    """
    known = tuple(processes)
    declared = {process.ref.pid: (process.ppid, _read_rank(process)) for process in known}
    ranks: dict[int, int] = {}
    for pid, (ppid, rank) in declared.items():
        if rank is not None and declared.get(ppid, (0, None))[1] != rank:
            ranks[pid] = rank
    return ranks or _count_spawned(known)


def find_missing(processes: Iterable[ProcessEvidence]) -> tuple[tuple[int, ...], int]:
    """Return the ranks that no living process has, of those that ``WORLD_SIZE`` asks for, and that size; nothing and 0 if unknown.

    Only what processes were started with is known: a variable that a program sets itself is not seen.
    """
    living = [process.environment or {} for process in processes if process.state not in ("Z", "X")]
    present = {int(one["RANK"]) for one in living if one.get("RANK", "").isdecimal()}
    sizes = {int(one["WORLD_SIZE"]) for one in living if one.get("WORLD_SIZE", "").isdecimal() and one.get("RANK", "").isdecimal()}
    if len(sizes) != 1 or max(sizes) > _MOST_RANKS:
        return (), 0
    size = sizes.pop()
    return tuple(rank for rank in range(size) if rank not in present), size


def _read_rank(process: ProcessEvidence) -> int | None:
    environment: Mapping[str, str] = process.environment or {}
    for name in _RANK_NAMES:
        value = environment.get(name, "")
        if value.isdecimal():
            return int(value)
    match = _RANK_OPTION.search(" ".join(process.command or ()))
    return int(match[1]) if match else None


def _count_spawned(processes: Sequence[ProcessEvidence]) -> dict[int, int]:
    """Return the ranks of the children of ``torch.multiprocessing.spawn``: what it started, in the order of their starts."""
    starters = {process.ref.pid for process in processes if _is_in(process, _STARTER)}
    ranks: dict[int, int] = {}
    for starter in starters:
        children = [process for process in processes if process.ppid == starter and _is_spawned(process)]
        children.sort(key=lambda one: (one.ref.start_ticks, one.ref.pid))
        ranks.update({process.ref.pid: rank for rank, process in enumerate(children)})
    return ranks


def _is_in(process: ProcessEvidence, file: str) -> bool:
    main = process.main_thread
    return main is not None and any(is_place(frame, file) for _, frame in own_frames(main.frames))


def _is_spawned(process: ProcessEvidence) -> bool:
    """Whether a process runs a function for ``multiprocessing``, rather than serving it as a resource tracker or fork server."""
    main = process.main_thread
    return main is not None and (is_forked(main.frames) or "spawn_main" in " ".join(process.command or ()))
