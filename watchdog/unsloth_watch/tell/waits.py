"""Who waits for whom, as far as the capture says: the edges of the waits-for graph, for the reader of a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unsloth_watch.model.evidence import Evidence, ProcessEvidence, ThreadEvidence
from unsloth_watch.waits.chain import find_start, follow
from unsloth_watch.waits.edge import RESTING
from unsloth_watch.waits.exiting import is_exiting
from unsloth_watch.waits.graph import Graph
from unsloth_watch.waits.scene import Key

_WRITE_ONLY, _READ_WRITE, _ACCESS_MODE = 1, 2, 3  # O_WRONLY, O_RDWR, O_ACCMODE
_READS = frozenset({"read", "readv", "pread64", "recvfrom", "recvmsg", "recvmmsg", "accept", "accept4"})
_WRITES = frozenset({"write", "writev", "pwrite64", "sendto", "sendmsg", "sendmmsg", "connect"})


def list_waits(evidence: Evidence) -> list[dict[str, Any]]:
    """Return the waits: every main thread, and every other thread that waits for anybody or whom somebody waits for.

    Each says what the kernel shows (``call``, ``kind``, ``for``, ``pids``), what its stack says (``aim``, ``words``, ``frame``),
    who could end it (``wakers``), and its place on the chain of blame from the command's main thread (``step``, from 1).
    """
    processes = {process.ref.pid: process for process in evidence.processes}
    graph = Graph(evidence)
    steps, cycle = _number_steps(graph, evidence)
    awaited = {edge.waker for edges in graph.edges.values() for edge in edges}
    waits: list[dict[str, Any]] = []
    for process in evidence.processes:
        if process.tracer_pid:
            tracer = _edge(process, None, "tracer", f"traced by PID {process.tracer_pid}", pids=(process.tracer_pid,))
            waits.append({**tracer, **_describe_nothing()})
        for thread in process.threads:
            key = (process.ref.pid, thread.tid)
            is_told = key in steps or (graph.wants[key].aim not in RESTING and (key in awaited or bool(graph.edges[key])))
            edge = _find_edge(evidence, processes, process, thread)
            if edge is None and is_told:
                edge = _edge(process, thread, "other", thread.wait or graph.wants[key].words)
            if edge is not None:
                waits.append({**edge, **_describe(key, graph, steps, cycle)})
    return waits


def _number_steps(graph: Graph, evidence: Evidence) -> tuple[dict[Key, int], frozenset[Key]]:
    """Return the places on the chain of blame, and who of it waits in a circle."""
    root = evidence.root.pid if evidence.root is not None else evidence.processes[0].ref.pid if evidence.processes else 0
    start = find_start(graph, root)
    if start is None:
        return {}, frozenset()
    chain = follow(graph, start)
    return {key: number for number, key in enumerate(chain.keys, start=1)}, frozenset(chain.cycle)


def _describe(key: Key, graph: Graph, steps: Mapping[Key, int], cycle: frozenset[Key]) -> dict[str, Any]:
    want = graph.wants[key]
    return {
        "tid": key[1],
        "rank": graph.ranks.get(key[0]),
        "aim": want.aim.value,
        "words": want.words,
        "frame": str(want.frame) if want.frame is not None else None,
        "is_resting": want.aim in RESTING and key not in steps,
        "step": steps.get(key),
        "is_circle": key in cycle,
        "role": _find_role(key, graph, steps, cycle),
        "wakers": [
            {
                "pid": edge.waker[0] if edge.waker else None,
                "tid": edge.waker[1] if edge.waker else None,
                "thing": edge.thing,
                "why": edge.why,
                "source": edge.source,
                "is_sure": edge.is_sure,
            }
            for edge in graph.edges[key]
        ],
    }


def _find_role(key: Key, graph: Graph, steps: Mapping[Key, int], cycle: frozenset[Key]) -> str | None:
    """Return the part of a wait of the chain: what began it, what only follows from that, or what belongs to an ending program."""
    if key not in steps:
        return None
    if key in cycle or steps[key] == max(steps.values()):
        return "initiating"
    return "teardown" if is_exiting(graph.scene.threads[key], graph.scene.processes[key[0]]) else "cascade"


def _describe_nothing() -> dict[str, Any]:
    nothing = dict.fromkeys(("tid", "rank", "aim", "words", "frame", "step", "role"))
    return {**nothing, "is_resting": False, "is_circle": False, "wakers": []}


def _find_edge(
    evidence: Evidence, processes: Mapping[int, ProcessEvidence], process: ProcessEvidence, thread: ThreadEvidence
) -> dict[str, Any] | None:
    call = thread.call or ""
    if call in ("wait4", "waitid", "waitpid"):
        return _edge_to_child(processes, process, thread)
    if call in ("flock", "fcntl"):
        return _edge_to_lock(evidence, process, thread)
    if call in _READS | _WRITES or thread.wait_fds:
        edge = _edge_to_descriptor(processes, process, thread)
        if edge is not None:
            return edge
    if not thread.is_main:
        return None
    return _edge_of_main(process, thread)


def _edge_of_main(process: ProcessEvidence, thread: ThreadEvidence) -> dict[str, Any] | None:
    if thread.state in ("T", "t"):
        return _edge(process, thread, "signal", "stopped; waits for SIGCONT")
    if thread.call == "futex":
        return _edge(process, thread, "lock", thread.wait or "a lock or condition of its own process")
    return _edge(process, thread, "other", thread.wait) if thread.wait else None


def _edge_to_child(processes: Mapping[int, ProcessEvidence], process: ProcessEvidence, thread: ThreadEvidence) -> dict[str, Any]:
    arguments = thread.syscall_args
    position = 1 if thread.call == "waitid" else 0  # waitid(idtype, id), wait4(pid)
    child = _signed(arguments[position]) if len(arguments) > position else -1
    children = (child,) if child > 0 else tuple(pid for pid, other in processes.items() if other.ppid == process.ref.pid)
    words = f"end of PID {child}" if child > 0 else "end of any child"
    if child > 0 and child in processes and processes[child].state == "Z":
        words += " (a zombie)"
    elif child > 0 and child not in processes:
        words += " (not in the job any more)"
    return _edge(process, thread, "child", words, pids=children)


def _edge_to_lock(evidence: Evidence, process: ProcessEvidence, thread: ThreadEvidence) -> dict[str, Any]:
    waits = [lock for lock in evidence.locks if lock.is_waiter and lock.pid in (process.ref.pid, thread.tid)]
    places = {(lock.device, lock.inode) for lock in waits}
    holders = [lock for lock in evidence.locks if not lock.is_waiter and (lock.device, lock.inode) in places]
    path = next((lock.path for lock in (*waits, *holders) if lock.path), None)
    words = f"file lock {path}" if path else thread.wait or "a file lock"
    outside = next((lock.holder_command for lock in holders if not lock.is_inside and lock.holder_command), None)
    if outside:
        words += f", held outside the job by {outside}"
    return _edge(process, thread, "file-lock", words, pids=tuple(lock.pid for lock in holders if lock.pid > 0), path=path)


def _edge_to_descriptor(
    processes: Mapping[int, ProcessEvidence], process: ProcessEvidence, thread: ThreadEvidence
) -> dict[str, Any] | None:
    numbers = thread.wait_fds or (int(thread.syscall_args[0]),) if thread.wait_fds or thread.syscall_args else ()
    table = {descriptor.fd: descriptor for descriptor in process.descriptors or ()}
    found = [table[number] for number in numbers if number in table]
    if not found:
        return None
    first = found[0]
    others = f" and {len(found) - 1} more" if len(found) > 1 else ""
    words = thread.wait or f"{first.peer or first.target} (fd {first.fd}){others}"
    if first.target.startswith("pipe:"):
        pids = _other_ends(processes, process, first.target, wants_writer=thread.call not in _WRITES)
        return _edge(process, thread, "pipe", words, pids=pids, peer=first.target)
    if first.target.startswith("socket:"):
        return _edge(process, thread, "socket", words, peer=first.peer or first.target)
    return _edge(process, thread, "descriptor", words, path=first.target)


def _other_ends(
    processes: Mapping[int, ProcessEvidence], process: ProcessEvidence, target: str, *, wants_writer: bool
) -> tuple[int, ...]:
    """Return the processes that hold the other end of a pipe; where flags are unreadable, all others that have it open."""
    ends = []
    for pid, other in processes.items():
        for descriptor in other.descriptors or ():
            if descriptor.target != target:
                continue
            if descriptor.flags is None:
                is_other_end = pid != process.ref.pid
            else:
                mode = descriptor.flags & _ACCESS_MODE
                is_other_end = (mode in (_WRITE_ONLY, _READ_WRITE)) == wants_writer
            if is_other_end:
                ends.append(pid)
                break
    return tuple(ends)


def _edge(
    process: ProcessEvidence,
    thread: ThreadEvidence | None,
    kind: str,
    words: str,
    *,
    pids: tuple[int, ...] = (),
    path: str | None = None,
    peer: str | None = None,
) -> dict[str, Any]:
    return {
        "pid": process.ref.pid,
        "thread": thread.name if thread else None,
        "is_main": thread is None or thread.is_main,
        "call": thread.call if thread else None,
        "kind": kind,
        "for": words,
        "pids": list(pids),
        "path": path,
        "peer": peer,
    }


def _signed(value: int) -> int:
    """Return a raw 64-bit argument as the C int that it is: -1 arrives as 0xffffffffffffffff or 0xffffffff."""
    low = value & 0xFFFFFFFF
    return low - (1 << 32) if low & 0x80000000 else low
