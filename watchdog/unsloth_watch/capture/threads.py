"""Kernel threads and Python stacks of one process, put together."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from unsloth_watch.capture.dump import Dump, PythonThread
from unsloth_watch.capture.interpreterlock import find_askers
from unsloth_watch.capture.memory import read_memory
from unsloth_watch.capture.phrase import Wait
from unsloth_watch.capture.process import ProcessRead
from unsloth_watch.capture.syscalls import name_syscall
from unsloth_watch.capture.text import decode
from unsloth_watch.capture.threadids import read_thread_ids
from unsloth_watch.capture.waits import Task, read_file
from unsloth_watch.model.evidence import ThreadEvidence

_MAX_STACK_BYTES = 64 << 20
"""A stack pointer further than this below a thread's handle belongs to another thread (the usual size is 8 MiB)."""
_VERSION = re.compile(r"/lib(?:64)?/python(\d\.\d+)/")


def match_threads(process: ProcessRead, dump: Dump | None, *, reads_memory: bool = True) -> dict[int, PythonThread]:
    """Return the Python threads by kernel thread id.

    By the id that Python knows (3.11 and later), in the process's own PID namespace; else by the id that the C library keeps behind
    the handle; what is left by the handle itself, which lies above the blocked thread's stack pointer on the same stack; and the
    main thread by its name.

    Args:
        process: What was read of it.
        dump: Its stacks; None where there are none.
        reads_memory: Whether to ask its memory.
    """
    matched: dict[int, PythonThread] = {}
    if dump is None:
        return matched
    inner = {} if dump.method == "pystack" else process.namespace_tids  # pystack lists kernel threads, as we do
    outer = {inner.get(task.tid, task.tid): task for task in process.tasks}
    rest = []
    for thread in dump.threads:
        task = outer.get(thread.tid) if thread.tid is not None else None
        if task is not None and task.tid not in matched:
            matched[task.tid] = thread
        else:
            rest.append(thread)
    if reads_memory:
        rest = _match_handles(process, rest, matched, outer)
    for thread in rest:
        left = [task for task in process.tasks if task.tid not in matched]
        task = _find_task(thread, left, process.ref.pid)
        if task is not None:
            matched[task.tid] = thread
    return matched


def _match_handles(
    process: ProcessRead, rest: Sequence[PythonThread], matched: dict[int, PythonThread], outer: Mapping[int, Task]
) -> list[PythonThread]:
    """Add to ``matched`` the threads whose ids the C library tells, by their handles, and return the others."""
    asked = {thread.handle: thread for thread in rest if thread.handle is not None}
    free = {tid: task for tid, task in outer.items() if task.tid not in matched}
    ids = read_thread_ids(process.ref.pid, tuple(asked), free) if asked else None
    if ids is None:
        return list(rest)
    matched.update({free[tid].tid: thread for tid, thread in zip(ids, asked.values(), strict=True)})
    return [thread for thread in rest if thread.handle is None]


def _find_task(thread: PythonThread, free: Sequence[Task], pid: int) -> Task | None:
    """Return the task of a thread whose id is unknown, or stale because it is the copy that fork made of its parent's."""
    if thread.name == "MainThread":
        return next((task for task in free if task.tid == pid), None)
    if thread.handle is None:
        return None
    gaps = [
        (thread.handle - task.stack_pointer, task)
        for task in free
        if task.stack_pointer is not None and 0 < thread.handle - task.stack_pointer < _MAX_STACK_BYTES
    ]
    return min(gaps, key=lambda pair: pair[0])[1] if gaps else None


def build_threads(process: ProcessRead, matched: dict[int, PythonThread], *, reads_memory: bool) -> tuple[ThreadEvidence, ...]:
    """Return every kernel thread, main first, with its Python stack where it has one and what it waits for.

    Args:
        process: What was read of it.
        matched: Python threads by kernel thread id.
        reads_memory: Whether to ask its memory for the owners and places of futexes.
    """
    threads = []
    waits = process.waits or {}
    askers = find_askers(process.tasks, process.ref.pid) if reads_memory else frozenset()
    for task in process.tasks:
        wait = waits.get(task.tid)
        python = matched.get(task.tid)
        threads.append(
            ThreadEvidence(
                tid=task.tid,
                name=(python.name if python else "") or task.comm,
                is_main=task.tid == process.ref.pid,
                frames=python.frames if python else (),
                has_gil=python.has_gil if python else None,
                state=task.state,
                syscall=task.syscall,
                syscall_args=task.args,
                wait_channel=task.wait_channel,
                cpu_s=task.cpu_s,
                vctx=task.vctx,
                call=name_syscall(task.syscall),
                wait=wait.phrase if wait else None,
                wait_fds=wait.fds if wait else (),
                wait_path=_find_path(wait, process) if wait else None,
                futex=find_shared_futex(task, process.ref.pid) if reads_memory else None,
                mutex_owner=_read_owner(task, process) if reads_memory else None,
                awaits_gil=task.tid in askers,
            )
        )
    return tuple(threads)


def _find_path(wait: Wait, process: ProcessRead) -> str | None:
    """Return the absolute path that a call concerns: its argument below the working directory, or what its one descriptor is."""
    if wait.path:
        return wait.path if wait.path.startswith("/") or process.cwd is None else os.path.join(process.cwd, wait.path)
    targets = [file.target for file in process.files or () if file.fd in wait.fds] if len(wait.fds) == 1 else []
    return next((target for target in targets if target.startswith("/")), None)


def find_shared_futex(task: Task, pid: int) -> str | None:
    """Return the place in shared memory of a futex that processes share: ``device:inode:offset``; None for a private one."""
    if name_syscall(task.syscall) != "futex" or len(task.args) < 2 or task.args[1] & _FUTEX_PRIVATE:
        return None
    try:
        return parse_place(read_file(f"/proc/{pid}/maps"), task.args[0])
    except OSError:
        return None


def parse_place(maps: bytes, address: int) -> str | None:
    """Return where an address lies in a shared mapping, by the lines of a ``maps`` file; None where it lies in none."""
    for line in maps.splitlines():
        fields = line.split(None, 5)
        try:
            first, last = (int(part, 16) for part in fields[0].split(b"-"))
            if first <= address < last:
                is_shared = fields[1].endswith(b"s")
                place = int(fields[2], 16) + address - first
                return f"{decode(fields[3])}:{int(fields[4])}:{place}" if is_shared else None
        except (IndexError, ValueError):
            continue
    return None


_FUTEX_PRIVATE = 0x80
_FUTEX_COMMAND = 0x7F
_WAIT, _CONTENDED = 0, 2  # FUTEX_WAIT on a lock word of 2: glibc's mutex, held and waited for
_OWNER_OFFSET = 8  # of ``__owner`` in glibc's pthread_mutex_t: after the lock word and the count, on every 64-bit machine


def _read_owner(task: Task, process: ProcessRead) -> int | None:
    """Return the thread that owns the pthread mutex that a thread waits for; None where it waits for none or it names no thread."""
    if name_syscall(task.syscall) != "futex" or len(task.args) < 3:
        return None
    address, operation, value = task.args[:3]
    if operation & _FUTEX_COMMAND != _WAIT or value & 0xFFFFFFFF != _CONTENDED:
        return None
    raw = read_memory(process.ref.pid, address + _OWNER_OFFSET, 4)
    owner = int.from_bytes(raw, "little") if raw is not None and len(raw) == 4 else 0
    outer = {inner: tid for tid, inner in process.namespace_tids.items()}.get(owner, owner)
    return outer if any(outer == other.tid for other in process.tasks) else None


def find_version(dump: Dump) -> str | None:
    """Return the Python version from the place of the standard library in the stacks."""
    files = (frame.file for thread in dump.threads for frame in thread.frames)
    return next((match[1] for file in files if (match := _VERSION.search(file))), None)
