"""Who could end a thread's wait, by what it wants: the edges of the graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from unsloth_watch.model.evidence import ThreadEvidence
from unsloth_watch.waits.edge import RESTING, Edge
from unsloth_watch.waits.ends import find_peer, find_wakers
from unsloth_watch.waits.place import is_place, own_frames
from unsloth_watch.waits.scene import Doubt, Key
from unsloth_watch.waits.wait import Class
from unsloth_watch.waits.want import Aim, Want, list_held, read_lock_name

if TYPE_CHECKING:
    from unsloth_watch.waits.graph import Graph


NOBODY = "nobody else has the other end"
"""Why of an edge to nobody from a pipe or socket of which only the waiter has an end."""


def find_edges(key: Key, graph: Graph) -> Iterator[Edge]:
    """Yield the edges of a thread; one without a waker where nobody alive could end its wait."""
    want = graph.wants[key]
    # A join with a timeout that is called again and again is about that thread, or child, all the same.
    aim = want.asked if want.asked in (Aim.THREAD, Aim.CHILD) else want.aim
    find = {
        Aim.LOCK: _find_holders,
        Aim.SHARED_LOCK: _find_sharers,
        Aim.MUTEX: _find_owner,
        Aim.EVENT: _find_signallers,
        Aim.QUEUE: _find_signallers,
        Aim.FUTURE: _find_performers,
        Aim.THREAD: _find_joined,
        Aim.CHILD: _find_children,
        Aim.WORKERS: _find_workers,
        Aim.IMPORT: _find_importers,
        Aim.LOOP: _find_performers,
        Aim.COLLECTIVE: _find_ranks,
        Aim.CHANNEL: _find_wakers,
        Aim.FILE_LOCK: _find_wakers,
        Aim.GIL: _find_interpreter,
        Aim.UNKNOWN: _find_signallers if want.address is not None else None,
    }.get(aim)
    return find(key, want, graph) if find is not None else iter(())


def _find_holders(key: Key, want: Want, graph: Graph) -> Iterator[Edge]:
    """Yield the threads of the process whose source says that they hold the lock, itself included."""
    thing = f"lock {want.name}" if want.name else f"lock at {want.address:#x}" if want.address else "a lock"
    found = [
        (other, line)
        for other in graph.scene.threads_of(key[0])
        for file, name, line in list_held(graph.scene.threads[other])
        if want.name and (file, name) == (want.file, want.name)
    ]
    holders = dict(found)
    if any("rlock_acquire" in frame.function for frame in graph.scene.threads[key].frames[:8]):
        holders.pop(key, None)  # a thread never waits for a reentrant lock that is its own: it holds another one of that name
    is_sure = len(holders) == 1 and _is_one_lock(want, graph)
    for holder, line in holders.items():
        where = graph.scene.threads[holder].frames[line.depth]
        yield Edge(key, holder, thing, f"holds {want.name} in {where}", "stack and source", is_sure=is_sure)
    if holders:
        return
    # ``locks[i]`` here is ``locks[j]`` there: whoever waits for a lock and holds another may be the one.
    others = [other for other in graph.scene.threads_of(key[0]) if other != key and graph.wants[other].aim is Aim.LOCK]
    for other in others:
        held = list_held(graph.scene.threads[other])
        if held:
            yield Edge(key, other, thing, f"holds {held[0][1]}, which may be it", "stack and source", is_sure=False)
    if not any(list_held(graph.scene.threads[other]) for other in others):
        yield Edge(key, None, thing, "no living thread is seen to hold it", "stack and source", is_sure=False)


def _is_one_lock(want: Want, graph: Graph) -> bool:
    """Whether an expression can be taken for one lock: ``self.lock`` of one object is not that of another.

    Neither is a name for which two threads wait at different addresses.
    """
    alike = {other.address for other in graph.wants.values() if (other.file, other.name) == (want.file, want.name)}
    return len(alike) == 1 and want.name.partition(".")[0] not in ("self", "cls")


def _find_owner(key: Key, want: Want, graph: Graph) -> Iterator[Edge]:
    owner = graph.scene.threads[key].mutex_owner
    thing = f"mutex at {want.address:#x}" if want.address else "a mutex"
    if owner is not None and (key[0], owner) in graph.scene.threads:
        yield Edge(key, (key[0], owner), thing, "owns the mutex, as its own memory says", "/proc/PID/mem")
    else:
        yield Edge(key, None, thing, "its owner is no living thread of the process", "/proc/PID/mem", is_sure=False)


def _find_interpreter(key: Key, want: Want, graph: Graph) -> Iterator[Edge]:
    """Yield who holds the interpreter lock."""
    for other in graph.scene.threads_of(key[0]):
        if other != key and graph.scene.threads[other].has_gil:
            yield Edge(key, other, "interpreter lock", "holds the interpreter lock", "stack")


def _find_sharers(key: Key, want: Want, graph: Graph) -> Iterator[Edge]:
    """Yield who holds a lock of ``multiprocessing``: by its expression, in any process of the job."""
    name, _ = read_lock_name(graph.scene.threads[key])
    found = False
    for other, one in graph.scene.threads.items():
        for _, held, line in list_held(one):
            if other != key and name and held == name:
                found = True
                yield Edge(key, other, f"shared lock {name}", f"holds {name} in {one.frames[line.depth]}", "stack and source")
    if not found:
        yield Edge(key, None, f"shared lock {name}".strip(), "no living process is seen to hold it", "stack", is_sure=False)


def _find_signallers(key: Key, want: Want, graph: Graph) -> Iterator[Edge]:
    """Yield who may signal: the other threads of the process that have something to do and are not in the same wait."""
    others = [other for other in graph.busy_of(key[0], key) if want.frame is None or graph.wants[other].frame != want.frame]
    if is_shared(graph.scene.threads[key]):
        others += [
            main
            for pid in graph.scene.processes
            if pid != key[0] and (main := graph.main_of(pid)) is not None and _is_busy(main, graph)
        ]
    for other in others:
        yield Edge(key, other, want.name, "may be the one to signal", "stack", is_sure=False)
    if not others:
        yield Edge(key, None, want.name, "no other thread of its process has anything to do", "stack", is_sure=False)


def is_shared(thread: ThreadEvidence) -> bool:
    """Whether a thread waits for a signal that other processes may give, by ``multiprocessing``."""
    return any(is_place(frame, "/synchronize.py") for _, frame in own_frames(thread.frames))


def _is_busy(key: Key, graph: Graph) -> bool:
    return graph.wants[key].aim not in RESTING and graph.wants[key].aim is not Aim.ENDED


def _find_performers(key: Key, want: Want, graph: Graph) -> Iterator[Edge]:
    """Yield the pool threads and worker processes that have a task."""
    busy = [
        other
        for other in graph.busy_of(key[0], key)
        if any(
            is_place(frame, "/concurrent/futures/thread.py", "_worker")
            for _, frame in own_frames(graph.scene.threads[other].frames)
        )
    ]
    workers = [other for other in _list_busy_mains(key[0], graph) if other not in busy]
    for other in busy + workers:
        yield Edge(key, other, want.name, "has a task of the pool", "stack", is_sure=len(busy + workers) == 1)
    if not busy + workers:
        if want.aim is Aim.FUTURE:
            yield from _find_signallers(key, want, graph)
        else:
            yield Edge(key, None, "", "no thread and no process works for it", "stack", is_sure=False)


def _find_joined(key: Key, want: Want, graph: Graph) -> Iterator[Edge]:
    if want.tid is not None:
        yield Edge(key, (key[0], want.tid), "", "has not ended", "/proc/PID/task/TID/syscall")
        return
    main = graph.main_of(key[0])
    others = [other for other in graph.busy_of(key[0], key) if other != main] or [
        other for other in graph.scene.threads_of(key[0]) if other not in (key, main) and graph.scene.threads[other].frames
    ]
    for other in others:
        yield Edge(key, other, "", "has not ended", "stack", is_sure=len(others) == 1)
    if not others:
        yield Edge(key, None, "", "no other thread of Python is left", "stack", is_sure=False)


def _find_children(key: Key, want: Want, graph: Graph) -> Iterator[Edge]:
    wait = graph.scene.waits[key]
    if wait.kind is Class.CHANNEL:
        found = find_wakers(key, graph.scene)
        pids = [] if isinstance(found, Doubt) else sorted({pid for pid, _ in found[1]} - {key[0]})
        pids = pids or graph.children_of(key[0])
    else:
        pids = [wait.child] if wait.child else graph.children_of(key[0])
    for pid in pids:
        main = graph.main_of(pid)
        if main is not None:
            yield Edge(key, main, "", f"is the child {'that it waits for' if len(pids) == 1 else 'of it'}", "/proc", len(pids) == 1)


def _find_workers(key: Key, want: Want, graph: Graph) -> Iterator[Edge]:
    """Yield the workers that have something to do; nobody where all are idle or gone."""
    busy = _list_busy_mains(key[0], graph)
    for other in busy:
        yield Edge(key, other, "", "is a worker and has not finished", "stack", is_sure=len(busy) == 1)
    if not busy:
        yield Edge(key, None, "", "no worker has anything to do", "stack", is_sure=False)


def _list_busy_mains(pid: int, graph: Graph) -> list[Key]:
    """Return the main threads of the children that have something to do; a stopped or dead one first."""
    mains = [main for child in graph.children_of(pid) if (main := graph.main_of(child)) is not None]
    # A worker that sleeps in its task has not finished it.
    busy = [main for main in mains if graph.wants[main].aim is not Aim.IDLE]
    return sorted(busy, key=lambda main: (graph.wants[main].aim in RESTING, graph.wants[main].aim not in (Aim.STOPPED, Aim.ENDED)))


def _find_importers(key: Key, want: Want, graph: Graph) -> Iterator[Edge]:
    others = [
        other
        for other in graph.scene.threads_of(key[0])
        if other != key
        and any(is_place(frame, "<frozen importlib._bootstrap>", "_load_unlocked") for frame in graph.scene.threads[other].frames)
    ]
    for other in others:
        yield Edge(key, other, "module lock", "is in the middle of an import", "stack", is_sure=len(others) == 1)


def _find_ranks(key: Key, want: Want, graph: Graph) -> Iterator[Edge]:
    """Yield the ranks that are elsewhere; where all are in a collective, those in another one."""
    others = [main for pid in graph.ranks if (main := graph.main_of(pid)) is not None and main != key]
    outside = [other for other in others if graph.wants[other].aim is not Aim.COLLECTIVE]
    different = [other for other in others if graph.wants[other].aim is Aim.COLLECTIVE and not _is_same(want, graph.wants[other])]
    for other in outside or different:
        why = "has not entered it" if outside else f"is in another one, {graph.wants[other].name}"
        yield Edge(key, other, f"collective {want.name}", why, "stack", is_sure=True)
    if not outside and not different:
        yield Edge(key, None, f"collective {want.name}", "no process of this job is elsewhere", "stack", is_sure=False)


def _is_same(one: Want, other: Want) -> bool:
    return one.name == other.name and one.frame == other.frame


def _find_wakers(key: Key, want: Want, graph: Graph) -> Iterator[Edge]:
    """Yield who is at the other end, and other threads of the same process where only that one has it."""
    found = find_wakers(key, graph.scene)
    wait = graph.scene.waits[key]
    thing = ", ".join(dict.fromkeys(wait.targets))
    if isinstance(found, Doubt):
        yield Edge(key, None, thing, found.why, "/proc/PID/fd", is_sure=False)
        return
    pids = list(dict.fromkeys(pid for pid, _ in found[1]))
    # A pipe within the job has its reader's own copy of the other end open, too: others come first.
    others = [pid for pid in pids if pid != key[0]]
    if not others and _holds_itself(key, graph):
        yield Edge(key, key, thing, "holds the lock itself, through another descriptor", "/proc/locks")
        return
    if not others and pids:
        for other in graph.busy_of(key[0], key):
            yield Edge(key, other, thing, "is of the only process that has the other end", "/proc/PID/fd", is_sure=False)
    ends = _list_listening(key, others, graph) or [end for pid in others for end in _list_ends(pid, key, graph)]
    for end in sorted(ends, key=lambda end: graph.wants[end].aim in RESTING):
        verb = "holds the lock" if want.aim is Aim.FILE_LOCK else "has the other end"
        yield Edge(key, end, thing, verb, "/proc/locks" if want.aim is Aim.FILE_LOCK else "/proc/PID/fd", len(ends) == 1)
    if not ends:
        yield Edge(key, None, thing, NOBODY, "/proc/PID/fd", is_sure=not graph.scene.survey.unseen)


def _list_listening(key: Key, pids: list[int], graph: Graph) -> list[Key]:
    """Return the threads that wait for bytes of a connection at its other end: each waits for the other to speak.

    In a server with a thread for every client it is that one, and not those that wait for other clients.
    """
    connections = [
        descriptor.connection
        for descriptor in graph.scene.processes[key[0]].descriptors or ()
        if descriptor.connection is not None and descriptor.target in graph.scene.waits[key].targets
    ]
    there = {find_peer(connection, graph.scene) for connection in connections} - {None}
    return [other for pid in pids for other in graph.scene.threads_of(pid) if there & set(graph.scene.waits[other].targets)]


def _holds_itself(key: Key, graph: Graph) -> bool:
    """Whether a thread waits for a file lock of its own: those of flock(2) belong to the descriptor, not to the process."""
    is_alone = len(graph.scene.threads_of(key[0])) == 1
    targets = graph.scene.waits[key].targets if graph.wants[key].aim is Aim.FILE_LOCK else ()
    return is_alone and any(lock.pid == key[0] and lock.path in targets and not lock.is_waiter for lock in graph.scene.survey.locks)


def _list_ends(pid: int, key: Key, graph: Graph) -> list[Key]:
    """Return who of a process may answer: its main thread, or those that have something to do where that one rests."""
    main = graph.main_of(pid)
    if main is None:
        return []
    return (graph.busy_of(pid, key) if graph.wants[main].aim in RESTING else []) or [main]
