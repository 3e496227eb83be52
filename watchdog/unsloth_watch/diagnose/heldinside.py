"""``stuck-worker`` by a file lock: a process of the job polls for a lock that another process of the same job holds.

The kernel shows no waiter, because filelock and SQLite ask without blocking; who waits and who holds it are joined by the path. A
connection of the waiter's own process that has a transaction open is ``thread-deadlock``.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.database import find_database_waits, name_database
from unsloth_watch.diagnose.fingerprint import fingerprint
from unsloth_watch.diagnose.frames import Sighting, find_frames, own_frame, plain_name
from unsloth_watch.diagnose.remedies import relaunch
from unsloth_watch.model.diagnosis import Culprit, Diagnosis, Remedy, Statement, Status
from unsloth_watch.model.evidence import FileLock, ProcessEvidence


class _Wait(msgspec.Struct, frozen=True):
    """A wait for a lock, and its holder.

    Attributes:
        sighting: Who waits.
        lock: For what.
        holder: Who holds it.
        path: What the lock stands for.
        is_database: Whether it is a database's.
        is_seen: Whether the stack shows the wait.
    """

    sighting: Sighting
    lock: FileLock
    holder: ProcessEvidence
    path: str | None
    is_database: bool = False
    is_seen: bool = True


class LockHeldInside:
    """A polling waiter and a living holder, both of the job."""

    id = "stuck-worker"

    def judge(self, case: Case) -> Diagnosis | None:
        """Return the holder; None where nobody polls for a lock of another process of the job."""
        wait = next(_find(case), None)
        return None if wait is None else _explain(case, wait)


def _find(case: Case) -> Iterator[_Wait]:
    processes = {process.ref.pid: process for process in case.processes}
    for sighting in find_frames(case.processes, "filelock.*"):
        if plain_name(sighting.frame.function) == "release":
            continue
        tried = {item.target for item in sighting.process.descriptors or ()} | set(sighting.process.glimpses)
        for lock in case.evidence.locks:
            holder = processes.get(lock.pid)
            if holder is not None and holder is not sighting.process and lock.path in tried and not lock.is_waiter:
                yield _Wait(sighting, lock, holder, lock.path)
    for wait in find_database_waits(case):
        for lock in wait.locks:
            holder = processes.get(lock.pid)
            if holder is not None:
                yield _Wait(wait.sighting, lock, holder, name_database(lock), True, wait.is_seen)


def _explain(case: Case, wait: _Wait) -> Diagnosis:
    waiter, holder, lock = wait.sighting.process, wait.holder, wait.lock
    is_own = holder is waiter
    thread = wait.sighting.thread if is_own else holder.main_thread
    frame = own_frame(thread.frames) if thread is not None else None
    culprit = Culprit(
        kind="thread" if is_own else "process",
        pid=holder.ref.pid,
        thread=thread.name if thread else None,
        frame=str(frame) if frame else None,
        path=wait.path,
    )
    doing = f" in {frame}" if frame else ""
    what = "SQLite database" if wait.is_database else "lock"
    holds = (
        f"which another connection of the same process has locked: that one cannot let go while PID {waiter.ref.pid} waits{doing}"
        if is_own
        else f"which PID {holder.ref.pid} of the same job holds{doing}: that one is stuck"
    )
    # Where other threads run Python, one of them may still end the transaction.
    is_alone = sum(bool(one.frames) for one in waiter.threads) < 2
    is_firm = case.is_doubted and wait.is_seen and (is_alone or not is_own)
    status = Status.SUPPORTED if is_firm else Status.HYPOTHESIS
    return Diagnosis(
        cause="thread-deadlock" if is_own else LockHeldInside.id,
        title="A process waits for its own lock" if is_own else "A process of the job holds a lock that another one needs",
        summary=f"PID {waiter.ref.pid} asks again and again for the {what} {wait.path}, {holds}.",
        status=status,
        confidence=0.85 if status is Status.SUPPORTED else 0.4,
        culprit=culprit,
        evidence=(
            Statement(f"PID {holder.ref.pid} holds {lock.kind} {lock.mode} on {lock.path}", "/proc/locks"),
            Statement(f"PID {waiter.ref.pid} is in {wait.sighting.frame}", "stack"),
            Statement(
                f"PID {holder.ref.pid}: {thread.wait if thread and thread.wait else f'state {holder.state}'}", "/proc/PID/syscall"
            ),
        ),
        refuted_by="the holder goes on and lets go of the lock",
        remedies=(relaunch("the holder may not get stuck the next time"), *(_advise(wait) if wait.is_database else ())),
        # The file's own name: its directory may be a temporary one.
        fingerprint=fingerprint(
            LockHeldInside.id,
            msgspec.structs.replace(culprit, path=(wait.path or "").rpartition("/")[2]),
            thread.frames if thread else (),
        ),
    )


def _advise(wait: _Wait) -> tuple[Remedy, ...]:
    who = "the other connection" if wait.holder is wait.sighting.process else f"PID {wait.holder.ref.pid}"
    return (
        Remedy(
            "end-transaction",
            f"{wait.path} is free as soon as {who} ends its transaction",
            "advice",
            advice=f"have {who} commit or roll back before anybody else writes, and before it waits for anything",
        ),
    )
