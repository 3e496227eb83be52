"""One process as /proc shows it, before any tool touches it; each blocking read has its own deadline."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import msgspec

from unsloth_watch.capture.deadline import DeadlineError, within_each
from unsloth_watch.capture.descriptors import OpenFile, read_open_files
from unsloth_watch.capture.limits import read_limits
from unsloth_watch.capture.phrase import Scene, Wait, describe_wait
from unsloth_watch.capture.text import decode
from unsloth_watch.capture.waits import Task, parse_stat, parse_status, read_file, read_tasks
from unsloth_watch.model.process import ProcessRef

_READ_S = 1.0
"""Deadline of one group of reads: they take 10 ms for 200 threads, and a second means that a lock of the kernel is held."""


class ProcessRead(msgspec.Struct, frozen=True):
    """What was read of a process; ``None`` is unreadable.

    Attributes:
        ref: Identity.
        ppid: Parent's PID.
        state: State letter of the main thread.
        command: Argument vector.
        executable: Path of the program.
        cwd: Working directory.
        environment: Environment at exec.
        uid: Effective user id.
        tracer_pid: Process that traces it, 0 for none.
        tasks: Threads, main first.
        namespace_tids: Thread ids in the process's own PID namespace, by those in ours, where the two differ.
        files: Open descriptors.
        missing: What could not be had and why.
        signals_caught: Mask of the signals that it handles.
        has_timers: Whether it has POSIX timers.
        signals_pending: Mask of the signals that wait for it.
        signals_blocked: Mask of the signals that its main thread blocks.
        is_background: Whether its group is in the background of its terminal; None without one.
        wait_status: Status of an ended process, as wait(2) says.
        rss_bytes: Resident memory.
        swap_bytes: Memory in swap.
        limits: Soft limits that are not unlimited.
        waits: What the threads' calls point to, by thread id; None where its memory did not answer.
    """

    ref: ProcessRef
    ppid: int
    state: str
    command: tuple[str, ...] | None = None
    executable: str | None = None
    cwd: str | None = None
    environment: dict[str, str] | None = None
    uid: int | None = None
    tracer_pid: int = 0
    tasks: tuple[Task, ...] = ()
    namespace_tids: dict[int, int] = {}
    files: tuple[OpenFile, ...] | None = None
    missing: tuple[str, ...] = ()
    signals_caught: int | None = None
    has_timers: bool | None = None
    signals_pending: int | None = None
    signals_blocked: int | None = None
    is_background: bool | None = None
    wait_status: int | None = None
    rss_bytes: int | None = None
    swap_bytes: int | None = None
    limits: dict[str, str] = {}
    waits: dict[int, Wait] | None = None

    @property
    def is_zombie(self) -> bool:
        """Whether it has ended and nobody has waited for it yet."""
        return self.state in "ZX" and len(self.tasks) <= 1

    @property
    def python_version(self) -> str | None:
        """The version in the name of its program (``python3.11``), if there is one."""
        match = re.search(r"python(\d\.\d+)$", self.executable or "")
        return match[1] if match else None

    @property
    def is_named_python(self) -> bool:
        """Whether its program's file name says that it is an interpreter; a program that embeds one says nothing."""
        return re.match(r"(python|pypy)", os.path.basename(self.executable or "")) is not None


class _Parts:
    """What is read of a process one part after the other; a part that is late or refused stays None.

    Args:
        pid: The process.
    """

    def __init__(self, pid: int) -> None:
        self.files: tuple[OpenFile, ...] | None = None
        self.tasks: tuple[Task, ...] | None = None
        self.waits: dict[int, Wait] | None = None
        self.command: tuple[str, ...] | None = None
        self.environment: dict[str, str] | None = None
        self._pid = pid

    def read(self, ref: ProcessRef, *, is_zombie: bool, is_brief: bool) -> list[str]:
        """Read all parts, and return what is missing and why."""
        # The waits at once: the array that a poll points to is another one after the next time-out, and a dump takes 0.3 s.
        parts = {"threads and their waits": self._read_tasks, "targets of the calls": self._read_waits}
        if not is_zombie:
            parts = {"open descriptors": self._read_files, **parts}
        if not is_zombie and not is_brief:
            parts |= {"command line": self._read_command, "environment": self._read_environment}
        faults = zip(parts, within_each(_READ_S, list(parts.values())), strict=True)
        return [phrase for what, fault in faults if fault is not None and (phrase := _tell_fault(what, fault, ref))]

    def _read_files(self) -> None:
        self.files = read_open_files(self._pid)

    def _read_tasks(self) -> None:
        self.tasks = read_tasks(self._pid)

    def _read_waits(self) -> None:
        self.waits = describe_waits(self._pid, self.tasks or (), self.files or ())

    def _read_command(self) -> None:
        self.command = _read_command(self._pid)

    def _read_environment(self) -> None:
        self.environment = _read_environment(self._pid)


def read_process(ref: ProcessRef, *, is_brief: bool = False) -> ProcessRead | None:
    """Return what /proc says about a process, or None when it has ended (a PID that was reused has ended, too).

    Args:
        ref: The process.
        is_brief: Without command line, environment and limits.
    """
    folder = f"/proc/{ref.pid}"
    try:
        line = read_file(f"{folder}/stat")
        status = parse_status(read_file(f"{folder}/status"))
    except OSError:
        return None
    stat = parse_stat(line)
    if stat is None or stat.start_ticks != ref.start_ticks:
        return None
    is_zombie = stat.state in "ZX"
    parts = _Parts(ref.pid)
    missing = parts.read(ref, is_zombie=is_zombie, is_brief=is_brief)
    tasks = parts.tasks or ()
    blocked = [task for task in tasks if task.state in "SD"]
    if not is_zombie and blocked and all(task.syscall is None for task in blocked):
        missing.append(f"system calls of PID {ref.pid}: not readable; {_REMEDY}")
    if not _is_same(ref):
        return None
    uids = status.get("Uid", "").split()
    return ProcessRead(
        ref=ref,
        ppid=stat.ppid,
        state=stat.state,
        command=parts.command,
        executable=_read_link(f"{folder}/exe"),
        cwd=_read_link(f"{folder}/cwd"),
        environment=parts.environment,
        uid=int(uids[1]) if len(uids) > 1 else None,
        tracer_pid=int(status.get("TracerPid", "0") or 0),
        tasks=tasks,
        namespace_tids=_namespace_tids(ref.pid, tasks, status),
        files=parts.files,
        missing=tuple(missing),
        signals_caught=_read_mask(status.get("SigCgt")),
        has_timers=_has_timers(ref.pid),
        signals_pending=_join_masks(status.get("SigPnd"), status.get("ShdPnd")),
        signals_blocked=_read_mask(status.get("SigBlk")),
        is_background=parse_background(line),
        wait_status=parse_wait_status(line) if is_zombie else None,
        rss_bytes=_read_kilobytes(status.get("VmRSS")),
        swap_bytes=_read_kilobytes(status.get("VmSwap")),
        limits={} if is_zombie or is_brief else read_limits(ref.pid),
        waits=parts.waits,
    )


def describe_waits(pid: int, tasks: Sequence[Task], files: Sequence[OpenFile]) -> dict[int, Wait]:
    """Return what the threads of a process wait for, by thread id; none of one that is in no known call."""
    scene = Scene(pid, {file.fd: file.target for file in files}, {file.fd: file.watched for file in files if file.watched})
    found = {task.tid: describe_wait(task, scene) for task in tasks if task.state not in "ZX"}
    return {tid: wait for tid, wait in found.items() if wait is not None}


def _read_mask(text: str | None) -> int | None:
    try:
        return int(text, 16) if text else None
    except ValueError:
        return None


def _join_masks(own: str | None, shared: str | None) -> int | None:
    """Return the signals that wait for the main thread or for the whole process."""
    masks = (_read_mask(own), _read_mask(shared))
    return None if None in masks else (masks[0] or 0) | (masks[1] or 0)


def _read_kilobytes(text: str | None) -> int | None:
    number = (text or "").removesuffix(" kB").strip()
    return int(number) * 1024 if number.isdecimal() else None


def parse_background(line: bytes) -> bool | None:
    """Return from a ``stat`` line whether the process's group is not its terminal's foreground one; None without a terminal."""
    fields = line.rpartition(b")")[2].split()
    try:
        group, terminal, foreground = int(fields[2]), int(fields[4]), int(fields[5])
    except (IndexError, ValueError):
        return None
    return None if terminal == 0 else group != foreground


def parse_wait_status(line: bytes) -> int | None:
    """Return the exit status in a ``stat`` line's last field; the kernel shows 0 to those who may not trace the process."""
    fields = line.rpartition(b")")[2].split()
    try:
        return int(fields[49])
    except (IndexError, ValueError):
        return None


def _has_timers(pid: int) -> bool | None:
    """Whether a process made timers with timer_create(2); None where the kernel does not say (CONFIG_CHECKPOINT_RESTORE off)."""
    try:
        return bool(read_file(f"/proc/{pid}/timers"))
    except OSError:
        return None


_REMEDY = "run as the job's user or with CAP_SYS_PTRACE"


def _tell_fault(what: str, fault: Exception, ref: ProcessRef) -> str:
    """Return why a part of a process could not be read; empty where that is only because it has ended.

    Raises:
        Exception: The fault, if it is one of ours.
    """
    if isinstance(fault, DeadlineError):
        return f"{what} of PID {ref.pid}: {fault}; the kernel holds a lock of the process, look at its threads in state D"
    if isinstance(fault, PermissionError):
        return f"{what} of PID {ref.pid}: no permission; {_REMEDY}"
    if isinstance(fault, OSError):
        return f"{what} of PID {ref.pid}: {fault.strerror}" if _is_same(ref) else ""
    raise fault


def _is_same(ref: ProcessRef) -> bool:
    """Return whether the process is still the one that is meant."""
    return read_start(ref.pid) == ref.start_ticks


def read_start(pid: int) -> int | None:
    """Return a process's start time in clock ticks since boot, or None when there is no such process."""
    try:
        stat = parse_stat(read_file(f"/proc/{pid}/stat"))
    except OSError:
        return None
    return None if stat is None else stat.start_ticks


def _read_command(pid: int) -> tuple[str, ...]:
    raw = read_file(f"/proc/{pid}/cmdline")
    return tuple(decode(word) for word in raw.removesuffix(b"\0").split(b"\0")) if raw else ()


def _read_environment(pid: int) -> dict[str, str]:
    pairs = (entry.partition(b"=") for entry in read_file(f"/proc/{pid}/environ").split(b"\0") if b"=" in entry)
    return {decode(name): decode(value) for name, _, value in pairs}


def _read_link(path: str) -> str | None:
    try:
        return decode(os.readlink(path.encode()))
    except OSError:
        return None


def _namespace_tids(pid: int, tasks: tuple[Task, ...], status: dict[str, str]) -> dict[int, int]:
    """Return inner thread ids by outer ones for a process in a PID namespace below ours: Python knows the inner ones only."""
    if len(status.get("NSpid", "").split()) < 2:
        return {}
    inner = {}
    for task in tasks:
        try:
            ids = parse_status(read_file(f"/proc/{pid}/task/{task.tid}/status")).get("NSpid", "").split()
        except OSError:
            continue
        if len(ids) > 1:
            inner[task.tid] = int(ids[-1])
    return inner
