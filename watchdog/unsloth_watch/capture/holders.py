"""Who holds the locks that a job waits for: the edge around the pure join of `locks`."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence

import msgspec

from unsloth_watch.capture.deadline import Deadline, DeadlineError, within
from unsloth_watch.capture.descriptors import OpenFile, read_open_files
from unsloth_watch.capture.locks import is_there, join_locks, list_lock_files, list_open_files, read_command_line, read_locks
from unsloth_watch.model.evidence import FileLock, ProcessEvidence

_DIRECTORY_S = 0.5
_SEARCH_S = 1.0
_SETLKW = (7, 38)
# F_SETLKW and F_OFD_SETLKW of fcntl(2)


def find_locks(
    open_files: Mapping[int, Sequence[OpenFile]], directories: Sequence[str], members: Collection[int]
) -> tuple[FileLock, ...]:
    """Return the locks that concern the job, each with path and holder as far as they can be known.

    Args:
        open_files: Open files of the job's processes by PID.
        directories: Directories whose lock files count as well.
        members: PIDs of the job.

    Raises:
        OSError: ``/proc/locks`` may not be read.
    """
    files = list_open_files(open_files)
    try:
        files += within(_DIRECTORY_S, list_lock_files, directories) if directories else []
    except DeadlineError:
        pass  # a directory that does not answer shows in its own probe; the locks of open files are known without it
    locks = join_locks(read_locks(), files, members)
    contested = {(lock.device, lock.inode) for lock in locks if lock.is_waiter}
    deadline = Deadline(_SEARCH_S)
    return tuple(
        _name_holder(lock, members)
        if (lock.device, lock.inode) in contested and not lock.is_waiter and not is_there(lock.pid) and not deadline.is_over
        else lock
        for lock in locks
    )


def _name_holder(lock: FileLock, members: Collection[int]) -> FileLock:
    """Return the lock with the process that holds it now, where its own PID is hidden or has ended."""
    holders = find_holders(lock.path) if lock.path else ()
    if not holders:
        return lock
    pid = holders[0]
    return msgspec.structs.replace(lock, pid=pid, holder_command=read_command_line(pid), is_inside=pid in members)


def find_holders(path: str) -> tuple[int, ...]:
    """Return the PIDs of processes that hold a lock through an open file of this path.

    It looks at every process that may be read: about 20 ms for 300 of them.
    """
    found = []
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            files = read_open_files(int(name))
        except OSError:
            continue
        if any(file.target == path and file.locks for file in files):
            found.append(int(name))
    return tuple(found)


def find_missing_locks(processes: Sequence[ProcessEvidence], locks: Sequence[FileLock]) -> list[str]:
    """Return a phrase for each thread that waits for a lock which ``/proc/locks`` does not show.

    The kernel hides a lock, its waiters included, when the holder is in another PID namespace, and knows none of another machine's.
    """
    shown = {lock.pid for lock in locks if lock.is_waiter}
    return [
        f"holder of the lock that PID {process.ref.pid} waits for ({thread.wait}): not in /proc/locks; it is outside this container"
        " or on another machine of a shared file system; run `unsloth-watch doctor` on the host"
        for process in processes
        for thread in process.threads
        if process.ref.pid not in shown
        and (thread.call == "flock" or (thread.call == "fcntl" and thread.syscall_args[1:2] and thread.syscall_args[1] in _SETLKW))
    ]
