"""Waits for a database of SQLite: a thread asks again and again for a lock that another connection holds.

SQLite asks without blocking and sleeps between, up to 0.1 s at a time and for as long as the connection's timeout says, so that the
kernel shows a holder and no waiter. Its locks are known by their place: SQLite locks bytes from 1 GiB on (PENDING_BYTE of os.h),
and bytes 120 to 127 of the file ``-shm`` where there is a write-ahead log (WAL_WRITE_LOCK of wal.c).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.frames import Sighting
from unsloth_watch.model.evidence import FileLock, ThreadEvidence

_SLEEPS = frozenset({"nanosleep", "clock_nanosleep"})
_NAP = re.compile(r"sleeps for (\d+(?:\.\d+)?(?:e-\d+)?) s")
_LONGEST_NAP_S = 0.1  # sqliteDefaultBusyCallback: 1 to 100 ms; whole seconds where it was built without usleep
_HANDLERS = ("BusyHandler", "BusyCallback")
_LIBRARIES = ("/libsqlite3.", "/_sqlite3.")
_PENDING_BYTE = 0x40000000
_LOCK_BYTES = 512  # PENDING, RESERVED, and the 510 of SHARED
_WAL_LOCKS = range(120, 128)
_SHARED_MEMORY = "-shm"


class DatabaseWait(msgspec.Struct, frozen=True):
    """A thread that waits for its turn.

    Attributes:
        sighting: The thread, and its innermost frame of Python.
        locks: Whom it waits for, writers alone where there are any: a reader rarely is in the way.
        is_seen: Whether its native frames show the wait, and for what. Without them it only sleeps as one who waits.
    """

    sighting: Sighting
    locks: tuple[FileLock, ...]
    is_seen: bool


def find_database_waits(case: Case) -> Iterator[DatabaseWait]:
    """Yield the threads that wait for a database which somebody has locked, be it another connection of the same process."""
    for process in case.processes:
        opened = {descriptor.target for descriptor in process.descriptors or ()}
        held = [lock for lock in case.evidence.locks if lock.path in opened and not lock.is_waiter and is_database_lock(lock)]
        for thread in process.threads if held else ():
            is_seen, depth = _is_seen(thread), next((at for at, frame in enumerate(thread.frames) if not frame.is_native), None)
            if depth is None or thread.call not in _SLEEPS or not (is_seen or (depth == 0 and _naps(thread))):
                continue
            # Who commits holds PENDING_BYTE itself, and waits until everybody else has read.
            read = {lock.path for lock in held if lock.mode == "READ" and lock.pid != process.ref.pid}
            own = [lock for lock in held if lock.pid == process.ref.pid and lock.start == _PENDING_BYTE and lock.path in read]
            writers = tuple(lock for lock in held if lock.mode == "WRITE" and lock not in own)
            # A process has a lock but once: of a reader's own it cannot be told whether another of its connections is in the way.
            locks = writers or tuple(lock for lock in held if lock.pid != process.ref.pid)
            if locks:
                # Of several databases it cannot be told which one it waits for.
                is_one = len({name_database(lock) for lock in locks}) == 1
                yield DatabaseWait(Sighting(process, thread, depth), locks, is_seen and is_one)


def is_database_lock(lock: FileLock) -> bool:
    """Whether a lock is SQLite's, by the bytes that it is on."""
    if lock.start is None:
        return False
    is_log = (lock.path or "").endswith(_SHARED_MEMORY) and lock.start in _WAL_LOCKS
    return is_log or _PENDING_BYTE <= lock.start < _PENDING_BYTE + _LOCK_BYTES


def name_database(lock: FileLock) -> str | None:
    """Return the path of the database itself; None where the lock's is not known."""
    return lock.path.removesuffix(_SHARED_MEMORY) if lock.path else None


def _naps(thread: ThreadEvidence) -> bool:
    match = _NAP.match(thread.wait or "")
    return match is not None and float(match[1]) <= _LONGEST_NAP_S


def _is_seen(thread: ThreadEvidence) -> bool:
    """Whether SQLite sleeps: in its handler by name, else in its library where that has no symbols."""
    for frame in thread.frames:
        if not frame.is_native:
            return False
        if any(part in frame.function for part in _HANDLERS) or any(part in frame.file for part in _LIBRARIES):
            return True
    return False
