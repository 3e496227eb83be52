"""``lock-held-elsewhere``: the program waits for a file lock that a live process outside of the job holds."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.database import find_database_waits, name_database
from unsloth_watch.diagnose.fingerprint import fingerprint
from unsloth_watch.diagnose.frames import Sighting, compare_looks, find_frames, is_module, plain_name, python_frames
from unsloth_watch.diagnose.knowledge import KnownFrame, known_frames
from unsloth_watch.diagnose.remedies import Need, choose_remedies
from unsloth_watch.diagnose.rule import CONFIDENCE
from unsloth_watch.model.diagnosis import Culprit, Diagnosis, Remedy, Statement, Status
from unsloth_watch.model.evidence import FileLock, Frame, ProcessEvidence, ThreadEvidence
from unsloth_watch.model.verdict import State

EXISTENCE = "O_EXCL"
"""Kind of a lock that is a file's mere existence; the kernel knows nothing of it."""


class _Waiter(msgspec.Struct, frozen=True):
    """A thread that waits for a lock, and who may hold that.

    Attributes:
        process: Its process.
        thread: Its thread; None where the kernel names the process only.
        frames: Its stack from the lock's caller outwards.
        holders: Locks outside of the job that it may wait for.
        is_blocked: Whether the kernel itself shows the wait, so that there is one holder and no doubt.
        known: What is known about the caller; None for an unknown one.
        is_lasting: Whether it was seen there for a while.
        is_database: Whether it waits for its turn in a database.
    """

    process: ProcessEvidence
    thread: ThreadEvidence | None
    frames: tuple[Frame, ...]
    holders: tuple[FileLock, ...]
    is_blocked: bool
    known: KnownFrame | None = None
    is_lasting: bool = False
    is_database: bool = False


class LockHeldElsewhere:
    """A waiter inside and a holder outside of the job, joined by ``/proc/locks``."""

    id = "lock-held-elsewhere"

    def judge(self, case: Case) -> Diagnosis | None:
        """Return the firmest wait; None where nobody waits for a lock that somebody outside holds."""
        waiters = [
            (status, waiter)
            for waiter in (*_find_blocked(case), *_find_polling(case), *_find_building(case), *_find_queued(case))
            for status in [_weigh(waiter)]
        ]
        if not waiters:
            return None
        status, waiter = max(waiters, key=lambda pair: CONFIDENCE[pair[0]])
        return _explain(case, status, waiter)


def _find_blocked(case: Case) -> Iterator[_Waiter]:
    """Yield the waits that the kernel shows: a ``->`` line of a process inside and the line that it waits behind."""
    locks = case.evidence.locks
    for wait in locks:
        if not wait.is_waiter or wait.pid not in case.pids:
            continue
        holders = tuple(
            lock
            for lock in locks
            if not lock.is_waiter and (lock.device, lock.inode) == (wait.device, wait.inode) and lock.pid not in case.pids
        )
        process = next(process for process in case.processes if process.ref.pid == wait.pid)
        thread = next((thread for thread in process.threads if thread.call in {"flock", "fcntl"}), None)
        if holders:
            known = _know_caller(thread.frames if thread else ())
            yield _Waiter(process, thread, thread.frames if thread else (), holders, True, known, True)


def _find_polling(case: Case) -> Iterator[_Waiter]:
    """Yield the waits of filelock, which asks without blocking and sleeps: the kernel shows a holder and no waiter."""
    for sighting in find_frames(case.processes, "filelock.*"):
        if plain_name(sighting.frame.function) == "release":
            continue
        known = _know_caller(sighting.outward)
        holders = _narrow(sighting, _find_holders(case, sighting, known))
        if holders:
            yield _Waiter(sighting.process, sighting.thread, sighting.outward, holders, False, known, _is_lasting(case, sighting))


def _find_building(case: Case) -> Iterator[_Waiter]:
    """Yield the waits for a lock file to go away which a process outside of the job has open: it is still at work there."""
    for known in known_frames("lock-exists"):
        for sighting in find_frames(case.processes, known.module, known.functions):
            files = [file for probe in case.caches(known.cache) for file in probe.lock_files]
            holders = tuple(
                FileLock(EXISTENCE, "WRITE", pid, "", number, file.path)
                for number, file in enumerate(files)
                for pid in file.openers or ()
                if pid not in case.pids
            )
            if holders:
                yield _Waiter(
                    sighting.process, sighting.thread, sighting.outward, holders, False, known, _is_lasting(case, sighting)
                )


def _find_queued(case: Case) -> Iterator[_Waiter]:
    """Yield the waits for a database that a process outside of the job has locked."""
    for wait in find_database_waits(case):
        one, holders = wait.sighting, tuple(lock for lock in wait.locks if lock.pid not in case.pids)
        if holders:
            is_lasting = wait.is_seen and case.is_doubted and _is_lasting(case, one)
            yield _Waiter(one.process, one.thread, one.outward, holders, False, None, is_lasting, is_database=True)


def _is_lasting(case: Case, sighting: Sighting) -> bool:
    is_judged = case.verdict is not None and case.verdict.state in {State.SUSPECTED, State.HUNG}
    agreement = compare_looks(case, sighting)
    return not agreement.contradict and (is_judged or agreement.is_steady)


def _know_caller(frames: tuple[Frame, ...]) -> KnownFrame | None:
    for frame in frames:
        for known in known_frames("lock-poll"):
            if is_module(frame.file, known.module) and (not known.functions or plain_name(frame.function) in known.functions):
                return known
    return None


def _find_holders(case: Case, sighting: Sighting, known: KnownFrame | None) -> tuple[FileLock, ...]:
    """Return the locks of others that this wait may be for: below the caller's cache, or on a file that the waiter has open."""
    opened = {descriptor.target for descriptor in sighting.process.descriptors or ()} | set(sighting.process.glimpses)
    candidates = {lock for probe in case.caches(known.cache) for lock in probe.lock_holders} if known else set()
    candidates |= {lock for lock in case.evidence.locks if lock.path in opened}
    outside = {
        (lock.device, lock.inode, lock.pid): lock
        for lock in candidates
        if not lock.is_waiter and lock.pid not in case.pids and lock.path
    }
    return tuple(sorted(outside.values(), key=lambda lock: (lock.path or "", lock.pid)))


def _narrow(sighting: Sighting, holders: tuple[FileLock, ...]) -> tuple[FileLock, ...]:
    """Keep the holders whose path the stack's local variables name, where they were captured and name one."""
    texts = [text for frame in sighting.thread.frames for text in (frame.locals or {}).values()]
    named = tuple(lock for lock in holders if any(lock.path and lock.path in text for text in texts))
    return named or holders


def _weigh(waiter: _Waiter) -> Status:
    if waiter.is_blocked:
        return Status.ESTABLISHED
    is_one = len({(lock.device, lock.inode) for lock in waiter.holders}) == 1
    is_kernel = all(lock.kind != EXISTENCE for lock in waiter.holders)
    is_tried = all(lock.path in waiter.process.glimpses for lock in waiter.holders)
    if waiter.is_database:
        # A writer may have come between two others: that it is the same one all the time is the judge's word.
        is_writer = all(lock.mode == "WRITE" for lock in waiter.holders)
        return Status.HYPOTHESIS if not waiter.is_lasting else Status.ESTABLISHED if is_one and is_writer else Status.SUPPORTED
    if is_one and is_kernel and (waiter.known is not None or is_tried) and waiter.is_lasting:
        return Status.ESTABLISHED
    return Status.SUPPORTED if waiter.is_lasting or is_one else Status.HYPOTHESIS


def _explain(case: Case, status: Status, waiter: _Waiter) -> Diagnosis:
    holder, known, process = waiter.holders[0], waiter.known, waiter.process
    place = name_database(holder) if waiter.is_database else holder.path
    path, who = place or f"inode {holder.inode} of device {holder.device}", _name_holder(holder)
    culprit = Culprit(
        kind="lock",
        pid=holder.pid if holder.pid > 0 else None,
        thread=waiter.thread.name if waiter.thread else None,
        frame=next((str(frame) for frame in python_frames(waiter.frames)), None),
        path=place,
        peer=holder.holder_command,
    )
    probe = next((probe for probe in case.caches(known.cache) if holder in probe.lock_holders), None) if known else None
    need = Need(process, known.library if known else "", case.version(known.library) if known else None, probe)
    advice = Remedy(
        id="end-holder",
        why=f"the lock is free as soon as {who} ends or lets go; a process of others is not for a supervisor to end",
        kind="advice",
        advice=f"kill {holder.pid}" if holder.pid > 0 else f"find the holder: fuser {path}",
    )
    meaning = known.meaning if known else "waits for a database of SQLite" if waiter.is_database else "waits for a file lock"
    return Diagnosis(
        cause=LockHeldElsewhere.id,
        title="A lock is held by a process outside of the job",
        summary=f"PID {process.ref.pid} {meaning}, {path}, and {who}, which is not part of this job, holds it.",
        status=status,
        confidence=CONFIDENCE[status],
        culprit=culprit,
        evidence=tuple(_state(waiter, who)),
        refuted_by="the holder ends and the wait goes on, or the holder turns out to belong to the job",
        remedies=(*choose_remedies(known.remedies if known else (), need), advice),
        fingerprint=fingerprint(LockHeldElsewhere.id, msgspec.structs.replace(culprit, peer=None), waiter.frames),
    )


def _name_holder(lock: FileLock) -> str:
    words = lock.holder_command or ""
    command = f" ({words[:60]}…)" if len(words) > 60 else f" ({words})" if words else ""
    return f"PID {lock.pid}{command}" if lock.pid > 0 else "a process that the kernel does not name"


def _state(waiter: _Waiter, who: str) -> Iterator[Statement]:
    for lock in waiter.holders:
        name = who if lock is waiter.holders[0] else _name_holder(lock)
        if lock.kind == EXISTENCE:
            yield Statement(f"{name} has {lock.path} open", "/proc/PID/fd")
        else:
            yield Statement(f"{name} holds {lock.kind} {lock.mode} on {lock.path}", "/proc/locks")
    if waiter.is_blocked:
        yield Statement(f"PID {waiter.process.ref.pid} is blocked behind it", "/proc/locks")
    elif waiter.thread is not None:
        yield Statement(
            f"thread {waiter.thread.name} of PID {waiter.process.ref.pid} asks for a lock and sleeps, again and again", "stack"
        )
    calls = python_frames(waiter.frames)
    if calls:
        caller = next((frame for frame in calls if not is_module(frame.file, "filelock.*")), calls[0])
        yield Statement(f"the lock is asked for by {caller}", "stack")
    timeout = (waiter.process.environment or {}).get("UNSLOTH_LOCK_TIMEOUT")
    if timeout is not None and waiter.known is not None and waiter.known.library == "unsloth_zoo":
        yield Statement(f"UNSLOTH_LOCK_TIMEOUT={timeout}", "environment")
