"""The processes of a job, each read from /proc and then asked for its stacks, within a deadline."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from unsloth_watch.capture.connections import name_peers, read_namespaces
from unsloth_watch.capture.deadline import Deadline, DeadlineError, within
from unsloth_watch.capture.holders import find_locks
from unsloth_watch.capture.ladder import Climb, Rung, climb
from unsloth_watch.capture.pool import spread
from unsloth_watch.capture.process import ProcessRead, read_process
from unsloth_watch.capture.threads import build_threads, find_version, match_threads
from unsloth_watch.model.evidence import Connection, FileLock, ProcessEvidence
from unsloth_watch.model.process import ProcessRef

T = TypeVar("T")

_PEERS_S = 0.5
EXTRA_S = 2.0
"""Deadline of one fact beside the stacks: locks, host, kernel log, a probe. They take milliseconds unless a file system hangs."""


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


def read_members(
    refs: Sequence[ProcessRef],
    deadline: Deadline,
    missing: list[str],
    *,
    is_gentle: bool,
    with_locals: bool = False,
    further: Sequence[Rung] = (),
    names_peers: bool = False,
    binary: str | None = None,
    needs_stack: Callable[[ProcessRead], bool] | None = None,
    is_brief: bool = False,
) -> tuple[list[ProcessRead], tuple[ProcessEvidence, ...]]:
    """Read every process from /proc, then take its stacks.

    Args:
        refs: The processes.
        deadline: Of all of it.
        missing: Gets a phrase for everybody who could not be read.
        is_gentle: Take only stacks that can be had without a pause.
        with_locals: Also read local variables.
        further: Rungs of the ladder after py-spy's.
        names_peers: Whether to look for the processes at the other ends of connections.
        binary: py-spy; None to look for it.
        needs_stack: Whose stacks are wanted; None for everybody's.
        is_brief: Without what is only for people and rules: command lines, environments, limits.
    """
    inner = Deadline(0.9 * deadline.left())
    reads = _read_all(refs, inner, missing, is_brief=is_brief)

    def read_stacks(process: ProcessRead) -> Climb:
        if needs_stack is not None and not needs_stack(process):
            return Climb()
        return climb(process, inner, is_gentle=is_gentle, with_locals=with_locals, further=further, binary=binary)

    turns = take_turns(reads)
    climbs = dict(zip(turns, spread(read_stacks, [reads[turn] for turn in turns], deadline), strict=True))
    connections = ask("sockets", lambda: read_connections(reads, names_peers=names_peers), deadline, missing) or {}
    return reads, build_all(reads, [climbs[number] for number in range(len(reads))], connections, deadline)


def take_turns(reads: Sequence[ProcessRead]) -> list[int]:
    """Return the order in which stacks are taken, as places in ``reads``: one of each kind first, then a second of each, and so on.

    A kind is a program, and what its threads wait in. Of a thousand processes 140 to 300 can be asked in time on two cores, and
    the one that all others wait for is seldom of their kind.
    """
    counts: dict[tuple[object, ...], int] = {}
    turns = []
    for number, read in enumerate(reads):
        kind = (read.executable, read.command, *((task.syscall, task.wait_channel) for task in read.tasks))
        counts[kind] = counts.get(kind, 0) + 1
        turns.append((counts[kind], number))
    return [number for _, number in sorted(turns)]


def read_job_locks(
    reads: Sequence[ProcessRead], directories: Sequence[str], deadline: Deadline, missing: list[str]
) -> tuple[FileLock, ...] | None:
    """Return the locks that concern the job, and those on the lock files in some directories; None where they cannot be read."""
    pids = {read.ref.pid for read in reads}
    return ask(
        "file locks",
        lambda: find_locks({read.ref.pid: read.files or () for read in reads}, directories, pids),
        deadline,
        missing,
    )


def order(members: Sequence[ProcessRef], root: ProcessRef | None) -> list[ProcessRef]:
    """Return each process once, the root first, then by PID."""
    others = sorted(set(members) - {root})
    return others if root is None else [root, *others]


def _read_all(refs: Sequence[ProcessRef], deadline: Deadline, missing: list[str], *, is_brief: bool) -> list[ProcessRead]:
    reads = []
    for ref, result in zip(refs, spread(lambda ref: read_process(ref, is_brief=is_brief), refs, deadline), strict=True):
        if isinstance(result, ProcessRead):
            reads.append(result)
        elif isinstance(result, Exception):
            missing.append(f"PID {ref.pid}: it could not be read ({result!r}); please report this")
        elif deadline.is_over:
            missing.append(f"PID {ref.pid}: no time was left to look at it; allow the capture more time")
        else:
            missing.append(f"PID {ref.pid}: it ended before it could be looked at")
    return reads


def read_connections(reads: Sequence[ProcessRead], *, names_peers: bool = False) -> dict[int, Connection]:
    """Return the job's sockets by inode; a socket's number is the same in every namespace."""
    found: dict[int, Connection] = {}
    deadline = Deadline(_PEERS_S)
    for pids, table in read_namespaces([read.ref.pid for read in reads]):
        targets = {file.target for read in reads if read.ref.pid in pids for file in read.files or ()}
        own = table.select({int(target[8:-1]) for target in targets if target.startswith("socket:[")})
        found.update(name_peers(own, table, deadline) if names_peers else own)
    return found


def build_all(
    reads: Sequence[ProcessRead],
    climbs: Sequence[Climb | Exception | None],
    connections: Mapping[int, Connection],
    deadline: Deadline,
) -> tuple[ProcessEvidence, ...]:
    """Return the evidence of each process; where its memory does not answer in time, without what is only read there."""
    pairs = list(zip(reads, climbs, strict=True))
    built = spread(lambda pair: _build(*pair, connections), pairs, Deadline(deadline.left(EXTRA_S)))
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
    reads_memory = read.waits is not None and not extra
    matched = match_threads(read, dump, reads_memory=reads_memory)
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
        threads=build_threads(read, matched, reads_memory=reads_memory),
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


def ask(what: str, question: Callable[[], T], deadline: Deadline, missing: list[str]) -> T | None:
    """Return the answer, or None and say why in ``missing``."""
    try:
        return within(deadline.left(EXTRA_S), question)
    except DeadlineError as error:
        missing.append(f"{what}: {error}")
    except Exception as error:  # no single fact may cost the whole capture; the fault is said in the evidence
        missing.append(f"{what}: {error!r}")
    return None
