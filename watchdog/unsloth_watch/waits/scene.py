"""One capture, indexed by who waits and who could end the wait."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from unsloth_watch.model.evidence import Evidence, ProcessEvidence, ThreadEvidence
from unsloth_watch.waits.loops import DEVICE_THREADS, IDLE_THREADS, Loop
from unsloth_watch.waits.wait import Class, Wait, classify

_WRITE_FLAGS = 3  # O_ACCMODE: 0 reads, 1 writes, 2 both


class Doubt(msgspec.Struct, frozen=True):
    """Why there is no proof."""

    why: str


Key = tuple[int, int]
"""A thread: PID and thread id."""


class Scene:
    """One survey, indexed.

    Args:
        survey: The survey.
        is_gpu_idle: Whether the devices are known to be idle.
    """

    def __init__(self, survey: Evidence, is_gpu_idle: bool) -> None:
        self.survey = survey
        self.is_gpu_idle = is_gpu_idle
        self.processes: dict[int, ProcessEvidence] = {process.ref.pid: process for process in survey.processes}
        self.threads: dict[Key, ThreadEvidence] = {
            (process.ref.pid, thread.tid): thread for process in survey.processes for thread in process.threads
        }
        self.waits: dict[Key, Wait] = {key: classify(thread, self.processes[key[0]]) for key, thread in self.threads.items()}
        self.holders = _index_holders(survey)

    def threads_of(self, pid: int) -> list[Key]:
        """Return the threads of a process."""
        return [(pid, thread.tid) for thread in self.processes[pid].threads] if pid in self.processes else []


def find_wakers(key: Key, scene: Scene) -> tuple[str, list[Key]] | Doubt:
    """Return how a thread waits, as a phrase, and all who could wake it; a Doubt where that is not known or not of the job."""
    thread, wait = scene.threads[key], scene.waits[key]
    who = f"PID {key[0]} thread {thread.name}"
    step = f"{who}: {wait.why}" + (f", in {thread.frames[0]}" if thread.frames else "")
    if wait.loop is Loop.CHILDREN:
        return f"{step} (a loop that looks after its children)", _threads_of_children(key[0], 0, scene)
    if wait.kind is Class.MEMORY:
        return step, _sharers(key, wait, scene)
    if wait.kind is Class.CHILD:
        return step, _threads_of_children(key[0], wait.child, scene)
    if wait.kind is Class.LOCK:
        return _lock_holders(step, wait, scene)
    if wait.kind is Class.CHANNEL or (wait.kind is Class.TIMED and wait.loop is Loop.POLL):
        return _channel_holders(key, step, wait, scene)
    return Doubt(f"{who}: {wait.why}")


def is_harmless(key: Key, scene: Scene) -> bool:
    """Whether a thread only looks after something and never wakes the program."""
    thread, loop = scene.threads[key], scene.waits[key].loop
    if loop is Loop.MONITOR or thread.name in IDLE_THREADS:
        return True
    return scene.is_gpu_idle and thread.name in DEVICE_THREADS


def _sharers(key: Key, wait: Wait, scene: Scene) -> list[Key]:
    """Return who shares the memory of a futex: the process's other threads, and every process of the job if it is not private."""
    pids = scene.processes if wait.is_shared else {key[0]: None}
    return [other for pid in pids for other in scene.threads_of(pid) if other != key]


def _threads_of_children(pid: int, child: int, scene: Scene) -> list[Key]:
    children = [process.ref.pid for process in scene.survey.processes if process.ppid == pid and child in (0, process.ref.pid)]
    return [key for one in children for key in scene.threads_of(one)]


def _lock_holders(step: str, wait: Wait, scene: Scene) -> tuple[str, list[Key]] | Doubt:
    held = [lock for lock in scene.survey.locks if not lock.is_waiter and lock.path is not None and lock.path in wait.targets]
    if not held:
        return Doubt(f"{step}: who holds that lock is not known")
    for lock in held:
        if not lock.is_inside:
            return Doubt(f"{step}: PID {lock.pid}, which is not of the job, holds that lock")
    return step, [key for lock in held for key in scene.threads_of(lock.pid)]


def _channel_holders(key: Key, step: str, wait: Wait, scene: Scene) -> tuple[str, list[Key]] | Doubt:
    """Return all threads of all processes that hold another end of what a thread waits on."""
    if not wait.targets:
        return Doubt(f"{step}: what it waits on could not be read")
    found: dict[Key, None] = {}
    for target in wait.targets:
        if target.startswith("anon_inode:[eventpoll]"):
            continue  # the set itself; its members are targets too
        if target in scene.survey.outside:
            return Doubt(f"{step}: somebody outside the job can answer on {target}")
        pids = _other_ends(target, wait, scene, key[0])
        if pids is None:
            return Doubt(f"{step}: who else holds {target} is not known")
        for pid in pids:
            for other in scene.threads_of(pid):
                if other != key:
                    found[other] = None
    return step, list(found)


def _other_ends(target: str, wait: Wait, scene: Scene, pid: int) -> set[int] | None:
    """Return the processes at the other end; None where somebody else may be there."""
    holders = scene.holders.get(target, {})
    if target.startswith("pipe:["):
        # Who may only read cannot write, and the other way round; a poll may wait for either.
        wanted = 0 if wait.is_write else 1
        return {holder for holder, modes in holders.items() if any(mode is None or mode in (wanted, 2) for mode in modes)}
    if target in ("anon_inode:[eventfd]", "anon_inode:[pidfd]"):
        return {process.ref.pid for process in scene.survey.processes}
    if target.startswith("socket:["):
        return _socket_peers(target, scene, pid)
    return None


def _socket_peers(target: str, scene: Scene, pid: int) -> set[int] | None:
    """Return the processes at the other end of a TCP connection within the job; None for all else."""
    here = next((d.peer for d in scene.processes[pid].descriptors or () if d.target == target and d.peer), None)
    if here is None:
        return None
    ends = here.split()
    # "tcp A:1 → B:2 ESTABLISHED" here is "tcp B:2 → A:1 ESTABLISHED" there.
    if len(ends) != 5 or ends[2] != "→":
        return None
    found = set()
    for process in scene.survey.processes:
        for descriptor in process.descriptors or ():
            there = (descriptor.peer or "").split()
            if len(there) == 5 and there[1] == ends[3] and there[3] == ends[1]:
                found.add(process.ref.pid)
    return found or None


def _index_holders(survey: Evidence) -> Mapping[str, Mapping[int, set[int | None]]]:
    """Return access modes by holder by descriptor target."""
    found: dict[str, dict[int, set[int | None]]] = {}
    for process in survey.processes:
        for descriptor in process.descriptors or ():
            mode = None if descriptor.flags is None else descriptor.flags & _WRITE_FLAGS
            found.setdefault(descriptor.target, {}).setdefault(process.ref.pid, set()).add(mode)
    return found
