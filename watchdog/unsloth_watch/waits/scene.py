"""One capture, indexed by who waits and who could end the wait."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from unsloth_watch.model.evidence import Evidence, ProcessEvidence, ThreadEvidence
from unsloth_watch.waits.loops import CUDA_THREAD, DEVICE_THREADS, HELPERS, IDLE_THREADS, Loop
from unsloth_watch.waits.manager import is_private_manager
from unsloth_watch.waits.wait import Class, Wait, classify, identify

_WRITE_FLAGS = 3  # O_ACCMODE: 0 reads, 1 writes, 2 both
KERNEL_OBJECTS = ("io_uring", "userfaultfd", "/dev/vhost", "/dev/kvm", "/dev/fuse")
"""Signs of descriptors by which the kernel, or whoever stands behind a device, may wake a process in any of its waits."""
_GPU_FILES = ("/dev/nvidia", "/dev/dri/", "/dev/kfd")


class Doubt(msgspec.Struct, frozen=True):
    """Why there is no proof.

    Attributes:
        why: One phrase.
        is_open: Whether a later survey may settle it: nothing stands against the proof but the time that was watched.
        is_blurred: Whether nothing else is against it than a known loop that was awake at that moment: the survey says nothing.
        is_outside: Whether somebody outside may end the wait that it is about, for all that is known.
    """

    why: str
    is_open: bool = False
    is_blurred: bool = False
    is_outside: bool = False


Key = tuple[int, int]
"""A thread: PID and thread id."""
AT_REST = (Class.MEMORY, Class.CHANNEL, Class.CHILD, Class.LOCK, Class.STOPPED)
"""Waits that somebody else must end."""


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
        is_kept = any(scene.waits[other].loop is Loop.CHILDREN for other in parent)
        # The main thread of any manager only looks whether it shall end; its servants are traced.
        return is_kept or (thread.is_main and is_private_manager(thread))
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


def _index_holders(survey: Evidence) -> Mapping[str, Mapping[int, set[int | None]]]:
    """Return access modes by holder by what a descriptor stands for."""
    found: dict[str, dict[int, set[int | None]]] = {}
    for process in survey.processes:
        for descriptor in process.descriptors or ():
            mode = None if descriptor.flags is None else descriptor.flags & _WRITE_FLAGS
            found.setdefault(identify(descriptor), {}).setdefault(process.ref.pid, set()).add(mode)
    return found
