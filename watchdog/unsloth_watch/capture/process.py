"""One process as /proc shows it, before any tool touches it; each blocking read has its own deadline."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from unsloth_watch.capture.deadline import DeadlineError, within
from unsloth_watch.capture.descriptors import OpenFile, read_open_files
from unsloth_watch.capture.phrase import Scene, Wait, describe_wait
from unsloth_watch.capture.text import decode
from unsloth_watch.capture.waits import Task, parse_stat, parse_status, read_file, read_tasks
from unsloth_watch.model.process import ProcessRef

T = TypeVar("T")

LIMITS = frozenset({"Max cpu time", "Max file size", "Max processes", "Max open files", "Max locked memory", "Max address space"})
"""Limits that stop a program or make its calls fail."""
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


def read_process(ref: ProcessRef) -> ProcessRead | None:
    """Return what /proc says about a process, or None when it has ended (a PID that was reused has ended, too)."""
    folder = f"/proc/{ref.pid}"
    try:
        line = read_file(f"{folder}/stat")
        status = parse_status(read_file(f"{folder}/status"))
    except OSError:
        return None
    stat = parse_stat(line)
    if stat is None or stat.start_ticks != ref.start_ticks:
        return None
    missing: list[str] = []
    is_zombie = stat.state in "ZX"
    files = None if is_zombie else _attempt(missing, ref, "open descriptors", read_open_files)
    tasks = _attempt(missing, ref, "threads and their waits", read_tasks) or ()
    # At once: the array that a poll points to is another one after the next time-out, and a dump takes 0.3 s.
    waits = _attempt(missing, ref, "targets of the calls", lambda pid: _describe_waits(pid, tasks, files or ()))
    command = environment = None
    if not is_zombie:
        command = _attempt(missing, ref, "command line", _read_command)
        environment = _attempt(missing, ref, "environment", _read_environment)
        blocked = [task for task in tasks if task.state in "SD"]
        if blocked and all(task.syscall is None for task in blocked):
            missing.append(f"system calls of PID {ref.pid}: not readable; {_REMEDY}")
    if not _is_same(ref):
        return None
    uids = status.get("Uid", "").split()
    return ProcessRead(
        ref=ref,
        ppid=stat.ppid,
        state=stat.state,
        command=command,
        executable=_read_link(f"{folder}/exe"),
        cwd=_read_link(f"{folder}/cwd"),
        environment=environment,
        uid=int(uids[1]) if len(uids) > 1 else None,
        tracer_pid=int(status.get("TracerPid", "0") or 0),
        tasks=tasks,
        namespace_tids=_namespace_tids(ref.pid, tasks, status),
        files=files,
        missing=tuple(missing),
        signals_caught=_read_mask(status.get("SigCgt")),
        has_timers=_has_timers(ref.pid),
        signals_pending=_join_masks(status.get("SigPnd"), status.get("ShdPnd")),
        signals_blocked=_read_mask(status.get("SigBlk")),
        is_background=parse_background(line),
        wait_status=parse_wait_status(line) if is_zombie else None,
        rss_bytes=_read_kilobytes(status.get("VmRSS")),
        swap_bytes=_read_kilobytes(status.get("VmSwap")),
        limits={} if is_zombie else _read_limits(folder),
        waits=waits,
    )


def _describe_waits(pid: int, tasks: Sequence[Task], files: Sequence[OpenFile]) -> dict[int, Wait]:
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


def parse_limits(raw: bytes) -> dict[str, str]:
    """Return the soft limits of a ``limits`` file that may stop a program and are not unlimited: ``Max open files`` → ``1024``."""
    found = {}
    for line in decode(raw).splitlines():
        name, value = line[:26].strip(), line[26:].split()[:1]
        if name in LIMITS and value and value[0].isdecimal():
            found[name] = value[0]
    return found


def _read_limits(folder: str) -> dict[str, str]:
    try:
        return parse_limits(read_file(f"{folder}/limits"))
    except OSError:
        return {}


def _has_timers(pid: int) -> bool | None:
    """Whether a process made timers with timer_create(2); None where the kernel does not say (CONFIG_CHECKPOINT_RESTORE off)."""
    try:
        return bool(read_file(f"/proc/{pid}/timers"))
    except OSError:
        return None


_REMEDY = "run as the job's user or with CAP_SYS_PTRACE"


def _attempt(missing: list[str], ref: ProcessRef, what: str, read: Callable[[int], T]) -> T | None:
    """Return what ``read`` gives within its deadline, or say in ``missing`` why it does not."""
    try:
        return within(_READ_S, read, ref.pid)
    except DeadlineError as error:
        missing.append(f"{what} of PID {ref.pid}: {error}; the kernel holds a lock of the process, look at its threads in state D")
    except PermissionError:
        missing.append(f"{what} of PID {ref.pid}: no permission; {_REMEDY}")
    except OSError as error:
        if _is_same(ref):
            missing.append(f"{what} of PID {ref.pid}: {error.strerror}")
    return None


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
