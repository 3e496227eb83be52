"""Who waits for Python's interpreter lock, told by the address of the futex: the lock's condition is a part of the interpreter.

Such a thread wakes every 5 ms, asks for the lock and goes back, so that its wait looks like any other by the clock. Locks, events
and queues lie on the heap or on a stack; what is waited for in the interpreter's own data with a time-out is that lock alone (seen
with 3.10 to 3.13, as a library and in the program). Where that data has no name in ``maps``, nothing is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from unsloth_watch.capture.syscalls import name_syscall
from unsloth_watch.capture.waits import Task, read_file

_OPERATION = 0x89  # FUTEX_WAIT_BITSET, private: pthread_cond_timedwait by the monotonic clock
_INTERPRETER = re.compile(rb"/(?:lib)?python\d\.\d+[a-z]*(?:\.so[\d.]*)?$")


def find_askers(tasks: Sequence[Task], pid: int) -> frozenset[int]:
    """Return the threads of a process that wait for the interpreter lock.

    Args:
        tasks: Its threads.
        pid: Process; its ``maps`` are read, which takes its mmap_lock, and only where some thread may wait so.

    Returns:
        Thread ids; none where the maps cannot be read.
    """
    asked = {task.tid: task.args[0] for task in tasks if _is_timed(task)}
    if not asked:
        return frozenset()
    try:
        places = list(list_data(read_file(f"/proc/{pid}/maps")))
    except OSError:
        return frozenset()
    return frozenset(tid for tid, address in asked.items() if any(first <= address < last for first, last in places))


def list_data(maps: bytes) -> Iterator[tuple[int, int]]:
    """Yield first and last address (not included) of the writable data of Python's program or library, from a ``maps`` file."""
    for line in maps.splitlines():
        fields = line.split(None, 5)
        if len(fields) == 6 and fields[1] == b"rw-p" and _INTERPRETER.search(fields[5].removesuffix(b" (deleted)")):
            first, _, last = fields[0].partition(b"-")
            try:
                yield int(first, 16), int(last, 16)
            except ValueError:
                continue


def _is_timed(task: Task) -> bool:
    is_futex = name_syscall(task.syscall) == "futex" and len(task.args) > 3
    return is_futex and task.args[1] == _OPERATION and task.args[3] != 0
