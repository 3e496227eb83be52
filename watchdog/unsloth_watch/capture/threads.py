"""Kernel threads and Python stacks of one process, put together."""

from __future__ import annotations

import re
from collections.abc import Sequence

from unsloth_watch.capture.dump import Dump, PythonThread
from unsloth_watch.capture.phrase import Scene, describe_wait
from unsloth_watch.capture.process import ProcessRead
from unsloth_watch.capture.syscalls import name_syscall
from unsloth_watch.capture.waits import Task
from unsloth_watch.model.evidence import ThreadEvidence

_MAX_STACK_BYTES = 64 << 20
"""A stack pointer further than this below a thread's handle belongs to another thread (the usual size is 8 MiB)."""
_VERSION = re.compile(r"/lib(?:64)?/python(\d\.\d+)/")


def match_threads(process: ProcessRead, dump: Dump | None) -> dict[int, PythonThread]:
    """Return the Python threads by kernel thread id.

    By the id that Python knows (3.11 and later), in the process's own PID namespace; what is left by the handle, which lies above
    the blocked thread's stack pointer on the same stack; and the main thread by its name.
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
    for thread in rest:
        free = [task for task in process.tasks if task.tid not in matched]
        task = _find_task(thread, free, process.ref.pid)
        if task is not None:
            matched[task.tid] = thread
    return matched


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


def build_threads(process: ProcessRead, matched: dict[int, PythonThread], scene: Scene | None) -> tuple[ThreadEvidence, ...]:
    """Return every kernel thread, main first, with its Python stack where it has one and what it waits for.

    Args:
        process: What was read of it.
        matched: Python threads by kernel thread id.
        scene: Where to look up what calls point to, which reads its memory; None to leave the phrases out.
    """
    threads = []
    for task in process.tasks:
        wait = describe_wait(task, scene) if scene is not None and task.state not in "ZX" else None
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
            )
        )
    return tuple(threads)


def find_version(dump: Dump) -> str | None:
    """Return the Python version from the place of the standard library in the stacks."""
    files = (frame.file for thread in dump.threads for frame in thread.frames)
    return next((match[1] for file in files if (match := _VERSION.search(file))), None)
