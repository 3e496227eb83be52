"""A large job's short way to "no proof": somebody who wakes by the clock spoils every one, whatever all others wait for.

A thousand processes take 5 s of CPU to survey, nearly all of it for stacks that decide nothing. The call that every thread is in
takes 20 µs each; of those who wake by the clock a few are looked at as in any survey, and one is enough.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from unsloth_watch.capture.deadline import Deadline
from unsloth_watch.capture.descriptors import read_open_files
from unsloth_watch.capture.ladder import Climb
from unsloth_watch.capture.members import build_all, read_connections, read_members
from unsloth_watch.capture.pool import spread
from unsloth_watch.capture.process import ProcessRead, describe_waits
from unsloth_watch.capture.pulses import mark_pulses
from unsloth_watch.capture.syscalls import name_syscall
from unsloth_watch.capture.waits import parse_syscall, read_file, read_task
from unsloth_watch.model.evidence import Evidence
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.waits.refutation import find_refutation
from unsloth_watch.waits.scene import Scene
from unsloth_watch.waits.wait import CHANNEL_CALLS, is_sleep

BATCH = 4
"""Processes whose stacks are taken at once."""
BATCHES = 2
"""Batches after which nobody is thought to spoil it: a training job's ranks and workers all have the same few monitors."""
_FUTEX_COMMAND = 0x7F
_FUTEX_WAITS = frozenset({0, 9, 11})


class Glance(msgspec.Struct, frozen=True):
    """What the calls of a process's threads say.

    Attributes:
        ref: The process.
        clocked: Threads that wake by the clock.
        channels: Threads that wait for descriptors.
        is_whole: Whether every thread showed its call.
    """

    ref: ProcessRef
    clocked: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()
    is_whole: bool = True


def refute(refs: Sequence[ProcessRef], root: ProcessRef, deadline: Deadline, binary: str | None = None) -> Evidence | None:
    """Return a survey of those alone who spoil every proof, and of those who wait for bytes; None where nobody was found to.

    Who waits for bytes is wanted by the judge in any case: what is read from a pipe counts of them alone.

    Args:
        refs: The job's processes, the root first.
        root: The command.
        deadline: Of all of it; what is late is no refutation.
        binary: py-spy; None to look for it.
    """
    glances = spread(glance, refs, deadline)
    if any(one is None or isinstance(one, Exception) or not one.is_whole for one in glances):
        return None
    seen = [one for one in glances if isinstance(one, Glance)]
    # The root comes in any case, and main threads first: theirs is the job's own work.
    clocked = sorted(
        (one for one in seen if one.clocked or one.ref == root), key=lambda one: (one.ref != root, one.ref.pid not in one.clocked)
    )
    for first in range(0, min(len(clocked), BATCH * BATCHES), BATCH):
        asked = [one.ref for one in clocked[first : first + BATCH]]
        asked = asked if root in asked else [root, *asked]
        missing: list[str] = []
        _, processes = read_members(asked, deadline, missing, is_gentle=True, is_brief=True, further=(), binary=binary)
        found = Evidence(at=0.0, seconds=0.0, processes=mark_pulses(processes), root=root)
        doubt = find_refutation(Scene(found, is_gpu_idle=True), root)
        if doubt is not None:
            waiting = [one for one in seen if one.ref not in asked and one.channels]
            return _tell(found, doubt.why, waiting, deadline)
    return None


def glance(ref: ProcessRef) -> Glance:
    """Return what the calls of a process's threads say; it decides nothing, so it may be another's who has the number by now."""
    clocked, channels, is_whole = [], [], True
    try:
        tids = [int(name) for name in os.listdir(f"/proc/{ref.pid}/task")]
    except OSError:
        return Glance(ref)
    for tid in tids:
        try:
            number, args, _ = parse_syscall(read_file(f"/proc/{ref.pid}/task/{tid}/syscall"))
        except (FileNotFoundError, ProcessLookupError):
            continue
        except OSError:  # not permitted, or the kernel has no such file
            is_whole = False
            continue
        call = name_syscall(number)
        if wakes_by_clock(call, args):
            clocked.append(tid)
        if call in CHANNEL_CALLS and not is_sleep(call, args):
            channels.append(tid)
    return Glance(ref, tuple(clocked), tuple(channels), is_whole)


def wakes_by_clock(call: str | None, args: Sequence[int]) -> bool:
    """Whether a call ends by itself after some time.

    Args:
        call: Its name; None for none.
        args: Its raw arguments.
    """
    words = (*args, 0, 0, 0, 0, 0, 0)
    if call == "futex":
        return words[1] & _FUTEX_COMMAND in _FUTEX_WAITS and words[3] != 0
    if call in ("poll", "epoll_wait", "epoll_pwait"):
        return not words[2 if call == "poll" else 3] >> 31 & 1  # a C ``int``: negative is for ever
    if call in ("ppoll", "select", "pselect6", "epoll_pwait2"):
        return words[{"ppoll": 2, "epoll_pwait2": 3}.get(call, 4)] != 0
    return is_sleep(call, args)


def _tell(found: Evidence, why: str, waiting: Sequence[Glance], deadline: Deadline) -> Evidence | None:
    """Return the survey with those who wait for bytes, each with the threads alone that do; None where not all could be read."""
    reads = spread(_read_waiting, waiting, deadline)
    if any(read is None or isinstance(read, Exception) for read in reads):
        return None
    whole = [read for read in reads if isinstance(read, ProcessRead) and read.tasks]
    others = build_all(whole, [Climb()] * len(whole), read_connections(whole), deadline)
    return msgspec.structs.replace(found, processes=(*found.processes, *others), refuted=why)


def _read_waiting(one: Glance) -> ProcessRead:
    """Return of a process what its waits for descriptors need; without any thread where it has ended.

    Raises:
        OSError: Its descriptors may not be read.
    """
    pid = one.ref.pid
    tasks = tuple(task for tid in one.channels if (task := read_task(pid, tid)) is not None)
    try:
        files = read_open_files(pid)
    except (FileNotFoundError, ProcessLookupError):
        return ProcessRead(one.ref, ppid=0, state="X")
    return ProcessRead(one.ref, ppid=0, state="S", tasks=tasks, files=files, waits=describe_waits(pid, tasks, files))
