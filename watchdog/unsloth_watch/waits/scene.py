"""One capture, indexed by who waits and who could end the wait."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from unsloth_watch.model.evidence import Connection, Evidence, ProcessEvidence, ThreadEvidence
from unsloth_watch.waits.loops import CUDA_THREAD, DEVICE_THREADS, HELPERS, IDLE_THREADS, Loop
from unsloth_watch.waits.wait import Class, Wait, classify, identify

_WRITE_FLAGS = 3  # O_ACCMODE: 0 reads, 1 writes, 2 both
_READS_AND_WRITES = 2
_READS = frozenset({"read", "readv", "pread64", "preadv"})
KERNEL_OBJECTS = ("io_uring", "userfaultfd", "/dev/vhost", "/dev/kvm", "/dev/fuse")
"""Signs of descriptors by which the kernel, or whoever stands behind a device, may wake a process in any of its waits."""
_GPU_FILES = ("/dev/nvidia", "/dev/dri/", "/dev/kfd")


class Doubt(msgspec.Struct, frozen=True):
    """Why there is no proof.

    Attributes:
        why: One phrase.
        is_open: Whether a later survey may settle it: nothing stands against the proof but the time that was watched.
    """

    why: str
    is_open: bool = False


Key = tuple[int, int]
"""A thread: PID and thread id."""


class Scene:
    """One survey, indexed.

    Args:
        survey: The survey.
        is_gpu_idle: Whether the devices are known to be idle.
        is_strict: Whether wakers are wanted for a proof: whoever might be one and is not known is a doubt then.

    Attributes:
        asked: What somebody outside the job may hold an end of, as far as wakers were looked for.
    """

    def __init__(self, survey: Evidence, is_gpu_idle: bool, *, is_strict: bool = False) -> None:
        self.survey = survey
        self.is_gpu_idle = is_gpu_idle
        self.is_strict = is_strict
        self.asked: dict[str, None] = {}
        self.processes: dict[int, ProcessEvidence] = {process.ref.pid: process for process in survey.processes}
        self.threads: dict[Key, ThreadEvidence] = {
            (process.ref.pid, thread.tid): thread for process in survey.processes for thread in process.threads
        }
        self.waits: dict[Key, Wait] = {key: classify(thread, self.processes[key[0]]) for key, thread in self.threads.items()}
        self.holders = _index_holders(survey)

    def threads_of(self, pid: int) -> list[Key]:
        """Return the threads of a process."""
        return [(pid, thread.tid) for thread in self.processes[pid].threads] if pid in self.processes else []

    def children_of(self, pid: int) -> list[ProcessEvidence]:
        """Return the children of a process, ended ones included."""
        return [process for process in self.survey.processes if process.ppid == pid]


def find_wakers(key: Key, scene: Scene) -> tuple[str, list[Key]] | Doubt:  # noqa: PLR0911 - one return a class reads best
    """Return how a thread waits, as a phrase, and all who could wake it; a Doubt where that is not known or not of the job."""
    thread, wait = scene.threads[key], scene.waits[key]
    step = tell_wait(key, scene)
    if wait.loop is Loop.CHILDREN:
        step = f"{step} (a loop that looks after its children)"
        return _children(key, 0, step, scene)
    if wait.kind is Class.STOPPED:
        return _stopped(key, step, scene)
    if wait.kind is Class.MEMORY or (wait.loop is Loop.POLL and thread.call == "futex"):
        return _sharers(key, step, wait, scene)
    if wait.kind is Class.CHILD:
        return _children(key, wait.child, step, scene)
    if wait.kind is Class.LOCK:
        return _lock_holders(key, step, wait, scene)
    if wait.kind is Class.CHANNEL or wait.loop is Loop.POLL:
        return _channel_holders(key, step, wait, scene)
    return Doubt(f"PID {key[0]} thread {thread.name}: {wait.why}")


def tell_wait(key: Key, scene: Scene) -> str:
    """Return who waits, for what, and where, as a phrase."""
    thread = scene.threads[key]
    return f"PID {key[0]} thread {thread.name}: {scene.waits[key].why}" + (f", in {thread.frames[0]}" if thread.frames else "")


def is_harmless(key: Key, scene: Scene) -> bool:
    """Whether a thread only looks after something and never wakes the program."""
    thread, wait = scene.threads[key], scene.waits[key]
    if wait.kind not in (Class.TIMED, Class.MEMORY, Class.CHANNEL):
        return False
    if wait.loop is Loop.MONITOR:
        return True
    if wait.loop is Loop.SERVER:
        # datasets makes its manager itself, with a key and an address that nobody else knows.
        parent = scene.threads_of(scene.processes[key[0]].ppid)
        return any(scene.waits[other].loop is Loop.CHILDREN for other in parent)
    if thread.frames:
        return False
    if thread.name in IDLE_THREADS:
        return True
    return scene.is_gpu_idle and (thread.name in DEVICE_THREADS or CUDA_THREAD.fullmatch(thread.name) is not None)


def has_ended(process: ProcessEvidence) -> bool:
    """Whether a process has ended, with all its threads: one whose main thread alone has ended looks like a zombie, too."""
    return process.state in ("Z", "X") and all(thread.state in ("Z", "X") for thread in process.threads)


def is_helper(process: ProcessEvidence) -> bool:
    """Whether a process is a well-known program that only measures and reports."""
    return (process.executable or "").rpartition("/")[2] in HELPERS


def has_gpu(process: ProcessEvidence) -> bool:
    """Whether a process has a GPU device open, whose driver can wake it."""
    return any(descriptor.target.startswith(_GPU_FILES) for descriptor in process.descriptors or ())


def _sharers(key: Key, step: str, wait: Wait, scene: Scene) -> tuple[str, list[Key]] | Doubt:
    """Return who shares the memory of a futex: the process's other threads, and every process of the job if it is not private."""
    if not wait.memory:
        # Private, or shared by its flag but in memory that no other process maps: the kernel keys both by the address space.
        return step, [other for other in scene.threads_of(key[0]) if other != key]
    place = wait.memory.rpartition(":")[0]
    doubt = _doubt_outsiders(place, step, scene)
    if doubt is not None:
        return doubt
    return step, [other for other in scene.threads if other != key and not has_ended(scene.processes[other[0]])]


def _children(key: Key, child: int, step: str, scene: Scene) -> tuple[str, list[Key]] | Doubt:
    """Return the threads of the children whose end is awaited; of any child, also who could make another one."""
    children = [process for process in scene.children_of(key[0]) if child in (0, process.ref.pid)]
    living = [process for process in children if not has_ended(process)]
    if scene.is_strict and not children:
        return Doubt(f"{step}: the child that it waits for was not seen")
    if scene.is_strict and len(living) < len(children):
        return Doubt(f"{step}: a child has ended, which it may be about to notice")
    found = [other for one in children for other in scene.threads_of(one.ref.pid)]
    return step, found if child else [*found, *(other for other in scene.threads_of(key[0]) if other != key)]


def _stopped(key: Key, step: str, scene: Scene) -> tuple[str, list[Key]] | Doubt:
    process = scene.processes[key[0]]
    if process.is_background is not None:
        return Doubt(f"{step}, and it has a terminal, from which somebody may continue it")
    if any(thread.state != "T" for thread in process.threads):
        return Doubt(f"{step}, but not all of its threads stand")
    return f"{step}, and it has no terminal from which somebody would continue it", []


def _lock_holders(key: Key, step: str, wait: Wait, scene: Scene) -> tuple[str, list[Key]] | Doubt:
    """Return who holds a file lock; everybody of the job who has that file open may share the holder's descriptor."""
    locks = [lock for lock in scene.survey.locks if lock.path is not None and lock.path in wait.targets]
    held = [lock for lock in locks if not lock.is_waiter]
    if not held or (scene.is_strict and not any(lock.is_waiter and lock.pid == key[0] for lock in locks)):
        return Doubt(f"{step}: who holds that lock is not known")
    for lock in held:
        if not lock.is_inside:
            return Doubt(f"{step}: PID {lock.pid}, which is not of the job, holds that lock")
        doubt = _doubt_outsiders(lock.path or "", step, scene)
        if doubt is not None:
            return doubt
    pids = {lock.pid for lock in held} | {pid for lock in held for pid in scene.holders.get(lock.path or "", {})}
    return step, [other for pid in sorted(pids) for other in scene.threads_of(pid) if other != key]


def _channel_holders(key: Key, step: str, wait: Wait, scene: Scene) -> tuple[str, list[Key]] | Doubt:
    """Return all threads of all processes that hold another end of what a thread waits on."""
    if not wait.targets:
        return Doubt(f"{step}: what it waits on could not be read")
    found: dict[Key, None] = {}
    if (scene.threads[key].call or "").startswith("epoll"):
        # Another thread may add a descriptor to the set.
        found.update(dict.fromkeys(other for other in scene.threads_of(key[0]) if other != key))
    for target in wait.targets:
        ends = _find_ends(key, target, step, wait, scene)
        if isinstance(ends, Doubt):
            return ends
        for pid in sorted(ends):
            found.update(dict.fromkeys(other for other in scene.threads_of(pid) if other != key))
    return step, list(found)


def _find_ends(  # noqa: PLR0911 - one return a kind of descriptor reads best
    key: Key, target: str, step: str, wait: Wait, scene: Scene
) -> set[int] | Doubt:
    """Return the processes that can end the wait for one descriptor; a Doubt where somebody else can, or nobody knows."""
    if target.startswith("pipe:["):
        wanted = _other_mode(key, target, wait, scene)
        doubt = _doubt_outsiders(target, step, scene, wanted)
        if doubt is not None:
            return doubt
        holders = scene.holders.get(target, {})
        ends = {pid for pid, modes in holders.items() if wanted is None or modes & {None, wanted, _READS_AND_WRITES}}
        if scene.is_strict and not ends:
            # Without any other end it would be at its end and nobody would wait.
            return Doubt(f"{step}: who holds the other end of {target} is not to be seen, perhaps in another container")
        return ends
    if target.startswith("eventfd "):
        doubt = _doubt_outsiders(target, step, scene)
        return set(scene.holders.get(target, {})) if doubt is None else doubt
    if target.startswith("pidfd "):
        pid = int(target[6:]) if target[6:].isdecimal() else 0
        process = scene.processes.get(pid)
        if process is None or has_ended(process):
            return Doubt(f"{step}: the process behind {target} is not of the job, or has ended")
        return {pid}
    if target.startswith("socket:["):
        return _find_socket_ends(key, target, step, scene)
    return Doubt(f"{step}: somebody outside the job can answer on {target}")


def _other_mode(key: Key, target: str, wait: Wait, scene: Scene) -> int | None:
    """Return the access mode of the pipe's other end: who may only read cannot write, and the other way round; None for either."""
    if wait.is_write or scene.threads[key].call in _READS:
        return 0 if wait.is_write else 1
    own = scene.holders.get(target, {}).get(key[0], set())
    return 1 if own == {0} else 0 if own == {1} else None


def _find_socket_ends(key: Key, target: str, step: str, scene: Scene) -> set[int] | Doubt:
    """Return who holds either end of a connection whose both ends are in the job."""
    connection = next((d.connection for d in scene.processes[key[0]].descriptors or () if d.target == target), None)
    if connection is None or connection.state != "ESTABLISHED" or connection.kind.startswith("udp"):
        return Doubt(f"{step}: somebody outside the job can answer on {connection or target}")
    there = find_peer(connection, scene)
    if there is None:
        return Doubt(f"{step}: the other end of {connection} is not in the job")
    ends: set[int] = set()
    for one in (target, there):
        doubt = _doubt_outsiders(one, step, scene)
        if doubt is not None:
            return doubt
        ends.update(scene.holders.get(one, {}))
    return ends


def find_peer(connection: Connection, scene: Scene) -> str | None:
    """Return ``socket:[n]`` of a connection's other end, where somebody of the job has it open; None for all else."""
    if connection.kind == "unix":
        return connection.remote if connection.remote in scene.holders else None
    wanted = (_plain(connection.remote), _plain(connection.local))
    for process in scene.survey.processes:
        for descriptor in process.descriptors or ():
            other = descriptor.connection
            if other is not None and other.kind.startswith("tcp") and (_plain(other.local), _plain(other.remote)) == wanted:
                return descriptor.target
    return None


def _plain(address: str) -> str:
    """Return an address in one spelling: a socket of version 6 shows IPv4 as ``[::ffff:127.0.0.1]``."""
    host, _, port = address.rpartition(":")
    return f"{host.strip('[]').removeprefix('::ffff:')}:{port}"


def _doubt_outsiders(target: str, step: str, scene: Scene, wanted: int | None = None) -> Doubt | None:
    """Return why somebody outside the job may hold an end; None where nobody can.

    Args:
        target: What is waited on.
        step: How it is waited for.
        scene: The survey.
        wanted: Access mode that the other end would need; None for any.
    """
    survey = scene.survey
    scene.asked[target] = None
    if target in survey.outside:
        return Doubt(f"{step}: somebody outside the job can answer on {target}")
    for outsider in survey.outsiders:
        if outsider.target == target and (wanted is None or outsider.mode in (None, wanted, _READS_AND_WRITES)):
            who = f"PID {outsider.pid}, which is not of the job, holds {target} too" if outsider.pid else "it can be opened by name"
            return Doubt(f"{step}: {who}")
    if scene.is_strict and survey.unseen and not survey.is_sealed:
        return Doubt(f"{step}: {survey.unseen} processes outside the job cannot be asked whether they hold {target}")
    return None


def _index_holders(survey: Evidence) -> Mapping[str, Mapping[int, set[int | None]]]:
    """Return access modes by holder by what a descriptor stands for."""
    found: dict[str, dict[int, set[int | None]]] = {}
    for process in survey.processes:
        for descriptor in process.descriptors or ():
            mode = None if descriptor.flags is None else descriptor.flags & _WRITE_FLAGS
            found.setdefault(identify(descriptor), {}).setdefault(process.ref.pid, set()).add(mode)
    return found
