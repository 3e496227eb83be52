"""Threads whose socket has a time-out of its own (``SO_RCVTIMEO``), which no file of /proc shows: their wait ends by the clock.

``pidfd_getfd`` (Linux 5.6) lends us the socket for some microseconds, to ask for its options; it needs the right to trace, as the
rest of a survey does. It is asked for only where nothing else stands against a proof.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct

import msgspec

from unsloth_watch.model.evidence import Evidence, ProcessEvidence, ThreadEvidence
from unsloth_watch.waits.scene import Doubt, Key, Scene
from unsloth_watch.waits.trace import trace
from unsloth_watch.waits.wait import Class

_PIDFD_GETFD = 438
"""System call number: the same on all architectures that Linux 5.6 knows."""
_TIMEVAL = struct.Struct("@ll")


def mark_timeouts(survey: Evidence) -> Evidence:
    """Return the survey with the threads marked that wait on a socket with a time-out; what cannot be asked counts as none."""
    scene = Scene(survey, is_gpu_idle=True, is_strict=True)
    argument = trace(scene)
    if isinstance(argument, Doubt):
        return survey
    patient = {step.key for step in argument.steps if _is_patient(step.key, scene)}
    return msgspec.structs.replace(survey, processes=tuple(_mark(one, patient) for one in survey.processes)) if patient else survey


def _is_patient(key: Key, scene: Scene) -> bool:
    thread, wait = scene.threads[key], scene.waits[key]
    if wait.kind is not Class.CHANNEL or len(thread.wait_fds) != 1 or not wait.targets[0].startswith("socket:["):
        return False
    return has_timeout(key[0], thread.wait_fds[0], wait.targets[0], is_write=wait.is_write) is True


def _mark(process: ProcessEvidence, patient: set[Key]) -> ProcessEvidence:
    threads: tuple[ThreadEvidence, ...] = tuple(
        msgspec.structs.replace(thread, has_socket_timeout=True) if (process.ref.pid, thread.tid) in patient else thread
        for thread in process.threads
    )
    return msgspec.structs.replace(process, threads=threads)


def has_timeout(pid: int, fd: int, name: str, *, is_write: bool) -> bool | None:
    """Return whether reads from, or writes to, a process's socket end by the clock; None where it cannot be asked.

    Args:
        pid: The process.
        fd: Its descriptor.
        name: ``socket:[n]`` that it must still be.
        is_write: Whether the time-out of writes is meant.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        got = ctypes.CDLL(None).syscall(_PIDFD_GETFD, pidfd, fd, 0)
    finally:
        os.close(pidfd)
    if got < 0:
        return None
    try:
        if os.readlink(f"/proc/self/fd/{got}") != name:
            return None
        with socket.socket(fileno=os.dup(got)) as borrowed:
            option = socket.SO_SNDTIMEO if is_write else socket.SO_RCVTIMEO
            return any(_TIMEVAL.unpack(borrowed.getsockopt(socket.SOL_SOCKET, option, _TIMEVAL.size)))
    except (OSError, struct.error):
        return None
    finally:
        os.close(got)
