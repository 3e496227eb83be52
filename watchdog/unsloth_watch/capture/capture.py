"""A whole capture: everything about all processes of a job, within a deadline, with a phrase for whatever is missing."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import msgspec

from unsloth_watch.capture.askedpaths import find_asked_paths
from unsloth_watch.capture.deadline import Deadline
from unsloth_watch.capture.devices import read_devices
from unsloth_watch.capture.filesystems import find_filesystems
from unsloth_watch.capture.glimpses import BRIEF_S, WATCH_S, find_glimpses
from unsloth_watch.capture.holders import find_missing_locks
from unsloth_watch.capture.host import read_host
from unsloth_watch.capture.kernel import read_kernel_log
from unsloth_watch.capture.ladder import RUNGS, Rung
from unsloth_watch.capture.look import look, looks, stack_signature
from unsloth_watch.capture.loops import annotate_loops
from unsloth_watch.capture.members import EXTRA_S, ask, order, read_job_locks, read_members, read_outside
from unsloth_watch.capture.nearlocks import find_near_locks
from unsloth_watch.capture.outsiders import name_outsiders
from unsloth_watch.capture.pool import spread
from unsloth_watch.capture.source import annotate
from unsloth_watch.capture.survey import survey
from unsloth_watch.model.evidence import CacheProbe, Evidence, ProcessEvidence
from unsloth_watch.model.process import ProcessRef

__all__ = ["DEADLINE_S", "Probe", "capture", "look", "looks", "read_outside", "stack_signature", "survey"]

DEADLINE_S = 10.0
"""Default deadline of a capture: 10 processes take about a second, and the budget before a kill is 3 s for them."""

Probe = Callable[[tuple[ProcessEvidence, ...]], "tuple[CacheProbe, ...] | dict[str, str]"]
"""A further question about the captured processes: caches as probes, or versions by distribution name."""


def capture(
    members: Sequence[ProcessRef],
    root: ProcessRef | None,
    *,
    at: float,
    clock: Callable[[], float],
    deadline_s: float = DEADLINE_S,
    is_gentle: bool = False,
    with_locals: bool = False,
    probes: Sequence[Probe] = (),
    lock_directories: Sequence[str] = (),
    further: Sequence[Rung] = RUNGS,
    binary: str | None = None,
) -> Evidence:
    """Return the evidence about a job; changes nothing in it and never raises.

    Every process is read from /proc before any is dumped, so that no wait is one that we caused.

    Args:
        members: The job's processes.
        root: The command itself; comes first whether or not it is among the members.
        at: Monotonic seconds of the start, from the supervisor's clock.
        clock: That clock.
        deadline_s: Seconds for all of it.
        is_gentle: Take only stacks that can be had without a pause, for a job that may be healthy (``inspect``).
        with_locals: Also read local variables; only where the user asked for them.
        probes: Further questions about the processes, each in a thread of its own.
        lock_directories: Directories whose lock files count although nobody of the job has them open.
        further: Rungs of the ladder after py-spy's.
        binary: py-spy; None to look for it.
    """
    deadline = Deadline(deadline_s)
    missing: list[str] = []
    reads, processes = read_members(
        order(members, root),
        deadline,
        missing,
        is_gentle=is_gentle,
        with_locals=with_locals,
        further=further,
        names_peers=True,
        binary=binary,
    )
    processes = ask("source lines", lambda: annotate(processes), deadline, missing) or processes
    processes = ask("loops in the source", lambda: annotate_loops(processes), deadline, missing) or processes
    processes = find_glimpses(processes, deadline, BRIEF_S if is_gentle else WATCH_S)
    processes = find_asked_paths(processes, deadline, binary)
    mounts = ask("file systems", lambda: find_filesystems(processes), deadline, missing) or ()
    tids = {thread.tid for process in processes for thread in process.threads}
    pids = {process.ref.pid for process in processes}
    tried = {os.path.dirname(path) for process in processes for path in process.glimpses if path.startswith("/")}
    locks = read_job_locks(reads, (*lock_directories, *sorted(tried)), deadline, missing)
    near = ask("lock files", lambda: find_near_locks(processes), deadline, missing) or ()
    host = ask("facts about the machine", lambda: read_host(reads[0].ref.pid if reads else None), deadline, missing)
    log, why = ask("kernel log", lambda: read_kernel_log(pids | tids), deadline, missing) or ((), None)
    devices = ask("GPU record", lambda: read_devices(log), deadline, missing) or ()
    caches, versions = _probe(probes, processes, deadline, missing)
    missing += [why] if why else []
    missing += [] if locks is None else find_missing_locks(processes, locks)
    found = Evidence(
        at=at,
        seconds=clock() - at,
        processes=processes,
        root=root,
        locks=locks or (),
        caches=caches,
        versions=versions,
        host=host or {},
        kernel_log=log,
        missing=tuple(missing),
        outside=read_outside(),
        devices=devices,
        mounts=mounts,
        lock_files=near,
    )
    asked = ask("who outside holds the other ends", lambda: name_outsiders(found, deadline), deadline, missing) or found
    return msgspec.structs.replace(asked, missing=tuple(missing), seconds=clock() - at)


def _probe(
    probes: Sequence[Probe], processes: tuple[ProcessEvidence, ...], deadline: Deadline, missing: list[str]
) -> tuple[tuple[CacheProbe, ...], dict[str, str]]:
    """Return what the probes found: caches and versions."""
    caches: tuple[CacheProbe, ...] = ()
    versions: dict[str, str] = {}
    patience = Deadline(deadline.left(EXTRA_S))
    for probe, found in zip(probes, spread(lambda probe: probe(processes), probes, patience), strict=True):
        name = getattr(probe, "__name__", repr(probe))
        if isinstance(found, dict):
            versions.update(found)
        elif isinstance(found, tuple):
            caches += found
        else:
            missing.append(f"{name}: {'no answer in time' if found is None else repr(found)}")
    return caches, versions
