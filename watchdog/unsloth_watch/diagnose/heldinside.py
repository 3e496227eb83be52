"""``stuck-worker`` by a file lock: a process of the job polls for a lock that another process of the same job holds.

The kernel shows no waiter, because filelock asks without blocking; who waits and who holds it are joined by the path.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.fingerprint import fingerprint
from unsloth_watch.diagnose.frames import Sighting, find_frames, own_frame, plain_name
from unsloth_watch.diagnose.remedies import relaunch
from unsloth_watch.model.diagnosis import Culprit, Diagnosis, Statement, Status
from unsloth_watch.model.evidence import FileLock, ProcessEvidence


class _Wait(msgspec.Struct, frozen=True):
    """A wait for a lock, and its holder."""

    sighting: Sighting
    lock: FileLock
    holder: ProcessEvidence


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
                yield _Wait(sighting, lock, holder)


def _explain(case: Case, wait: _Wait) -> Diagnosis:
    waiter, holder, lock = wait.sighting.process, wait.holder, wait.lock
    thread = holder.main_thread
    frame = own_frame(thread.frames) if thread is not None else None
    culprit = Culprit(
        kind="process",
        pid=holder.ref.pid,
        thread=thread.name if thread else None,
        frame=str(frame) if frame else None,
        path=lock.path,
    )
    doing = f" in {frame}" if frame else ""
    status = Status.SUPPORTED if case.is_doubted else Status.HYPOTHESIS
    return Diagnosis(
        cause=LockHeldInside.id,
        title="A process of the job holds a lock that another one needs",
        summary=f"PID {waiter.ref.pid} asks again and again for the lock {lock.path}, "
        f"which PID {holder.ref.pid} of the same job holds{doing}: that one is stuck.",
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
        remedies=(relaunch("the holder may not get stuck the next time"),),
        fingerprint=fingerprint(LockHeldInside.id, culprit, thread.frames if thread else ()),
    )
