"""A whole capture: everything about all processes of a job, within a deadline, with a phrase for whatever is missing."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from unsloth_watch.capture.askedpaths import find_asked_paths
from unsloth_watch.capture.connections import name_peers, read_namespaces
from unsloth_watch.capture.deadline import Deadline, DeadlineError, within
from unsloth_watch.capture.devices import read_devices
from unsloth_watch.capture.filesystems import find_filesystems
from unsloth_watch.capture.glimpses import BRIEF_S, WATCH_S, find_glimpses
from unsloth_watch.capture.holders import find_locks, find_missing_locks
from unsloth_watch.capture.host import read_host
from unsloth_watch.capture.kernel import read_kernel_log
from unsloth_watch.capture.ladder import RUNGS, Climb, Rung, climb
from unsloth_watch.capture.look import look, looks, stack_signature
from unsloth_watch.capture.loops import annotate_loops
from unsloth_watch.capture.nearlocks import find_near_locks
from unsloth_watch.capture.outsiders import ask_outsiders, name_outsiders
from unsloth_watch.capture.pool import spread
from unsloth_watch.capture.process import ProcessRead, read_process
from unsloth_watch.capture.pulses import mark_pulses
from unsloth_watch.capture.sockettimeouts import mark_timeouts
from unsloth_watch.capture.source import annotate
from unsloth_watch.capture.threads import build_threads, find_version, match_threads
from unsloth_watch.model.evidence import CacheProbe, Connection, Evidence, FileLock, ProcessEvidence
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.waits.reduction import reduce_survey

__all__ = ["DEADLINE_S", "Probe", "capture", "look", "looks", "read_outside", "stack_signature", "survey"]

T = TypeVar("T")

DEADLINE_S = 10.0
"""Default deadline of a capture: 10 processes take about a second, and the budget before a kill is 3 s for them."""
SURVEY_S = 3.0
"""Default deadline of a survey: 10 processes take 0.15 s."""
_PEERS_S = 0.5
_EXTRA_S = 2.0
# Deadline of one fact beside the stacks: locks, host, kernel log, a probe. They take milliseconds unless a file system hangs.

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
    reads, processes = _read_and_climb(
        _order(members, root),
        deadline,
        missing,
        is_gentle=is_gentle,
        with_locals=with_locals,
        further=further,
        names_peers=True,
        binary=binary,
    )
    processes = _ask("source lines", lambda: annotate(processes), deadline, missing) or processes
    processes = _ask("loops in the source", lambda: annotate_loops(processes), deadline, missing) or processes
    processes = find_glimpses(processes, deadline, BRIEF_S if is_gentle else WATCH_S)
    processes = find_asked_paths(processes, deadline, binary)
    mounts = _ask("file systems", lambda: find_filesystems(processes), deadline, missing) or ()
    tids = {thread.tid for process in processes for thread in process.threads}
    pids = {process.ref.pid for process in processes}
    tried = {os.path.dirname(path) for process in processes for path in process.glimpses if path.startswith("/")}
    locks = _read_locks(reads, (*lock_directories, *sorted(tried)), deadline, missing)
    near = _ask("lock files", lambda: find_near_locks(processes), deadline, missing) or ()
    host = _ask("facts about the machine", lambda: read_host(reads[0].ref.pid if reads else None), deadline, missing)
    log, why = _ask("kernel log", lambda: read_kernel_log(pids | tids), deadline, missing) or ((), None)
    devices = _ask("GPU record", lambda: read_devices(log), deadline, missing) or ()
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
    asked = _ask("who outside holds the other ends", lambda: name_outsiders(found, deadline), deadline, missing) or found
    return msgspec.structs.replace(asked, missing=tuple(missing), seconds=clock() - at)


def survey(
    members: Sequence[ProcessRef],
    root: ProcessRef | None,
    *,
    at: float,
    clock: Callable[[], float],
    deadline_s: float = SURVEY_S,
    is_sealed: bool = False,
    binary: str | None = None,
) -> Evidence:
    """Return what every thread of a job waits for, for a proof that nothing can wake it; pauses nobody.

    It holds what the judge needs and nothing private: no environment, no caches, nothing about the machine. Everybody else on the
    machine is asked for the other ends only where nothing else stands against a proof.

    Args:
        members: The job's processes.
        root: The command itself.
        at: Monotonic seconds of the start.
        clock: That clock.
        deadline_s: Seconds for all of it; what is not there by then is named in ``missing``, and spoils the proof.
        is_sealed: Whether we gave the job every descriptor that it got from outside, so that whoever cannot be asked holds none.
        binary: py-spy; None to look for it.
    """
    deadline = Deadline(deadline_s)
    missing: list[str] = []
    reads, processes = _read_and_climb(_order(members, root), deadline, missing, is_gentle=True, further=(), binary=binary)
    found = Evidence(
        at=at,
        seconds=clock() - at,
        processes=processes,
        root=root,
        locks=_read_locks(reads, (), deadline, missing) or (),
        missing=tuple(missing),
        outside=read_outside(),
        is_sealed=is_sealed,
    )
    found = msgspec.structs.replace(found, processes=_ask("source", lambda: mark_pulses(processes), deadline, missing) or processes)
    asked = _ask("who outside holds the other ends", lambda: ask_outsiders(found, deadline), deadline, missing) or found
    asked = _ask("time-outs of sockets", lambda: mark_timeouts(asked), deadline, missing) or asked
    return msgspec.structs.replace(reduce_survey(asked), seconds=clock() - at)


def read_outside() -> tuple[str, ...]:
    """Return the pipes and sockets that the supervisor itself holds open: through them somebody outside can speak to the job."""
    found = set()
    # Names alone: beside a thousand processes the supervisor has thousands of descriptors, 20 µs each with their positions.
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:  # closed meanwhile, as the listing's own
            continue
    return tuple(sorted(target for target in found if target.startswith(("pipe:", "socket:"))))


def _read_and_climb(
    refs: Sequence[ProcessRef],
    deadline: Deadline,
    missing: list[str],
    *,
    is_gentle: bool,
    with_locals: bool = False,
    further: Sequence[Rung] = (),
    names_peers: bool = False,
    binary: str | None = None,
) -> tuple[list[ProcessRead], tuple[ProcessEvidence, ...]]:
    """Read every process from /proc, then take its stacks."""
    inner = Deadline(0.9 * deadline.left())
    reads = _read_all(refs, inner, missing)

    def read_stacks(process: ProcessRead) -> Climb:
        return climb(process, inner, is_gentle=is_gentle, with_locals=with_locals, further=further, binary=binary)

    climbs = spread(read_stacks, reads, deadline)
    connections = _ask("sockets", lambda: _read_connections(reads, names_peers=names_peers), deadline, missing) or {}
    return reads, _build_all(reads, climbs, connections, deadline)


def _read_locks(
    reads: Sequence[ProcessRead], directories: Sequence[str], deadline: Deadline, missing: list[str]
) -> tuple[FileLock, ...] | None:
    pids = {read.ref.pid for read in reads}
    return _ask(
        "file locks",
        lambda: find_locks({read.ref.pid: read.files or () for read in reads}, directories, pids),
        deadline,
        missing,
    )


def _order(members: Sequence[ProcessRef], root: ProcessRef | None) -> list[ProcessRef]:
    """Return each process once, the root first, then by PID."""
    others = sorted(set(members) - {root})
    return others if root is None else [root, *others]


def _read_all(refs: Sequence[ProcessRef], deadline: Deadline, missing: list[str]) -> list[ProcessRead]:
    reads = []
    for ref, result in zip(refs, spread(read_process, refs, deadline), strict=True):
        if isinstance(result, ProcessRead):
            reads.append(result)
        elif isinstance(result, Exception):
            missing.append(f"PID {ref.pid}: it could not be read ({result!r}); please report this")
        elif deadline.is_over:
            missing.append(f"PID {ref.pid}: no time was left to look at it; allow the capture more time")
        else:
            missing.append(f"PID {ref.pid}: it ended before it could be looked at")
    return reads


def _read_connections(reads: Sequence[ProcessRead], *, names_peers: bool) -> dict[int, Connection]:
    """Return the job's sockets by inode; a socket's number is the same in every namespace."""
    found: dict[int, Connection] = {}
    deadline = Deadline(_PEERS_S)
    for pids, table in read_namespaces([read.ref.pid for read in reads]):
        targets = {file.target for read in reads if read.ref.pid in pids for file in read.files or ()}
        own = table.select({int(target[8:-1]) for target in targets if target.startswith("socket:[")})
        found.update(name_peers(own, table, deadline) if names_peers else own)
    return found


def _build_all(
    reads: Sequence[ProcessRead],
    climbs: Sequence[Climb | Exception | None],
    connections: Mapping[int, Connection],
    deadline: Deadline,
) -> tuple[ProcessEvidence, ...]:
    """Return the evidence of each process; where its memory does not answer in time, without what is only read there."""
    pairs = list(zip(reads, climbs, strict=True))
    built = spread(lambda pair: _build(*pair, connections), pairs, Deadline(deadline.left(_EXTRA_S)))
    processes = []
    for (read, climb_result), process in zip(pairs, built, strict=True):
        if isinstance(process, ProcessEvidence):
            processes.append(process)
            continue
        why = "its memory does not answer" if process is None else f"the capture itself failed ({process!r}); please report this"
        processes.append(_build(read, climb_result, connections, extra=(f"futexes of PID {read.ref.pid}: {why}",)))
    return tuple(processes)


def _build(
    read: ProcessRead,
    result: Climb | Exception | None,
    connections: Mapping[int, Connection],
    extra: tuple[str, ...] = (),
) -> ProcessEvidence:
    """Return a process's evidence from what was read of it and the end of its ladder.

    Args:
        read: What was read.
        result: The ladder's end; None when it was late.
        connections: The job's sockets by inode.
        extra: What is missing because its memory must not be read; empty to read it.
    """
    pid = read.ref.pid
    if isinstance(result, Exception):
        result = Climb(missing=(f"stack of PID {pid}: the capture itself failed ({result!r}); please report this",))
    elif result is None:
        result = Climb(missing=(f"stack of PID {pid}: no time was left for it; allow the capture more time",))
    dump, notes, missing = result.dump, list(result.notes), [*read.missing, *result.missing, *extra]
    matched = match_threads(read, dump)
    if dump is not None and len(dump.threads) > len(matched):
        lost = [thread.name or "?" for thread in dump.threads if thread not in matched.values()]
        missing.append(f"stacks of PID {pid}: {len(lost)} cannot be told which kernel thread is theirs: {', '.join(lost[:5])}")
    if dump is not None and dump.skipped:
        missing.append(f"stacks of PID {pid}: {dump.skipped} threads came in a form that cannot be read; update py-spy")
    return ProcessEvidence(
        ref=read.ref,
        ppid=read.ppid,
        command=read.command,
        executable=read.executable,
        cwd=read.cwd,
        environment=read.environment,
        state=read.state,
        uid=read.uid,
        tracer_pid=read.tracer_pid,
        threads=build_threads(read, matched, reads_memory=read.waits is not None and not extra),
        descriptors=None if read.files is None else tuple(file.to_descriptor(connections) for file in read.files),
        python_version=read.python_version or (find_version(dump) if dump else None),
        stack_method=dump.method if dump else None,
        missing=tuple(missing),
        notes=tuple(notes),
        signals_caught=read.signals_caught,
        has_timers=read.has_timers,
        signals_pending=read.signals_pending,
        signals_blocked=read.signals_blocked,
        is_background=read.is_background,
        wait_status=read.wait_status,
        rss_bytes=read.rss_bytes,
        swap_bytes=read.swap_bytes,
        limits=read.limits,
    )


def _ask(what: str, question: Callable[[], T], deadline: Deadline, missing: list[str]) -> T | None:
    """Return the answer, or None and say why in ``missing``."""
    try:
        return within(deadline.left(_EXTRA_S), question)
    except DeadlineError as error:
        missing.append(f"{what}: {error}")
    except Exception as error:  # no single fact may cost the whole capture; the fault is said in the evidence
        missing.append(f"{what}: {error!r}")
    return None


def _probe(
    probes: Sequence[Probe], processes: tuple[ProcessEvidence, ...], deadline: Deadline, missing: list[str]
) -> tuple[tuple[CacheProbe, ...], dict[str, str]]:
    """Return what the probes found: caches and versions."""
    caches: tuple[CacheProbe, ...] = ()
    versions: dict[str, str] = {}
    patience = Deadline(deadline.left(_EXTRA_S))
    for probe, found in zip(probes, spread(lambda probe: probe(processes), probes, patience), strict=True):
        name = getattr(probe, "__name__", repr(probe))
        if isinstance(found, dict):
            versions.update(found)
        elif isinstance(found, tuple):
            caches += found
        else:
            missing.append(f"{name}: {'no answer in time' if found is None else repr(found)}")
    return caches, versions
