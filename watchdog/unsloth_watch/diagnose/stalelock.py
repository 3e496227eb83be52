"""``stale-lock-file``: the program waits until a lock file goes away whose maker is gone."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

import msgspec

from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.fingerprint import fingerprint
from unsloth_watch.diagnose.frames import compare_looks, find_frames, own_frame
from unsloth_watch.diagnose.knowledge import KnownFrame, known_frames
from unsloth_watch.diagnose.poll import Poll, find_polls
from unsloth_watch.diagnose.pollloop import MIN_LOOKS
from unsloth_watch.diagnose.remedies import Need, choose_remedies
from unsloth_watch.diagnose.rule import CONFIDENCE
from unsloth_watch.model.diagnosis import Culprit, Diagnosis, Statement, Status
from unsloth_watch.model.evidence import Frame, LockFile, ProcessEvidence, ThreadEvidence

_MAKES = re.compile(r"O_EXCL|open\([^)]*['\"]x[bt]?\+?['\"]|\b(mkdir|makedirs|link|symlink)\(|\btouch\([^)]*exist_ok=False")
# Calls that fail while the file is there: a home-made lock is taken with one of them.
_WAITS_FOR_ABSENCE = re.compile(r"^while (?!not\b)[^=<>]*\b(l?exists|is_file|isfile|is_dir|isdir|access)\(")
_NAMED = re.compile(r"lock|\.lck|mutex|semaphore", re.IGNORECASE)


class _Wait(msgspec.Struct, frozen=True):
    """A thread that waits for a lock file to go.

    Attributes:
        process: Its process.
        thread: The thread.
        frames: Its stack from the lock's function outwards.
        meaning: What it does, as the end of "it …".
        files: Lock files that it may wait for.
        is_lasting: Whether it was seen there for a while.
        is_tried: Whether it was seen to open the very file, or holds its name in the variable that its loop names.
        known: What is known about the function; None for a home-made lock.
    """

    process: ProcessEvidence
    thread: ThreadEvidence
    frames: tuple[Frame, ...]
    meaning: str
    files: tuple[LockFile, ...]
    is_lasting: bool
    is_tried: bool = False
    known: KnownFrame | None = None

    @property
    def orphans(self) -> tuple[LockFile, ...]:
        """Those files of which nobody can be said to be the holder."""
        return tuple(file for file in self.files if is_orphan(file))


class StaleLockFile:
    """A wait for a lock whose file nobody has open, or whose named owner is dead."""

    id = "stale-lock-file"

    def judge(self, case: Case) -> Diagnosis | None:
        """Return the firmest wait; None where nobody waits so, or the lock file has a living owner."""
        found = [wait for wait in _find(case) if wait.orphans or not wait.files]
        if not found:
            return None
        wait = max(found, key=lambda one: CONFIDENCE[_weigh(one)])
        return _explain(case, wait, _weigh(wait))


def _find(case: Case) -> Iterator[_Wait]:
    yield from _find_known(case)
    yield from _find_soft(case)
    yield from _find_home_made(case)


def _find_known(case: Case) -> Iterator[_Wait]:
    """Yield the waits in library functions that wait for a file to go, such as torch's ``FileBaton``."""
    for known in known_frames("lock-exists"):
        for sighting in find_frames(case.processes, known.module, known.functions):
            files = tuple(file for probe in case.caches(known.cache) for file in probe.lock_files)
            near = tuple(file for file in case.evidence.lock_files if not known.file or file.path.rpartition("/")[2] == known.file)
            lasting = compare_looks(case, sighting).is_steady or case.is_doubted
            found = {file.path: file for file in (*near, *files)}
            yield _Wait(
                sighting.process, sighting.thread, sighting.outward, known.meaning, tuple(found.values()), lasting, known=known
            )


def _find_soft(case: Case) -> Iterator[_Wait]:
    """Yield the waits of filelock for a file on which the kernel knows no lock: a soft lock.

    It is the file that the waiter was seen to open or that its loop names, else any that lies near.
    """
    locked = {lock.path for lock in case.evidence.locks}
    sightings = list(find_frames(case.processes, "filelock.*"))
    waiting = {sighting.process.ref.pid for sighting in sightings}
    for sighting in sightings:
        free = [file for file in case.evidence.lock_files if file.path not in locked]
        tried = [file for file in free if is_tried(sighting.process, file.path)]
        files = tried or free
        if files:
            meaning = "waits until a lock file of filelock's own kind is gone"
            lasting = compare_looks(case, sighting).is_steady or case.is_doubted
            # What it opens itself for a moment is no holder.
            others = tuple(msgspec.structs.replace(file, openers=_leave_out(file, waiting)) for file in files)
            place = sighting.process, sighting.thread, sighting.outward
            yield _Wait(*place, meaning, others, lasting, is_tried=bool(tried), known=_soft())


def is_tried(process: ProcessEvidence, path: str) -> bool:
    """Whether a process was seen to open a file for a moment, or has its name in the variable that a loop of it names."""
    return path in process.glimpses or any(loop.target == path for thread in process.threads for loop in thread.loops)


def _leave_out(file: LockFile, waiting: Collection[int]) -> tuple[int, ...] | None:
    return None if file.openers is None else tuple(opener for opener in file.openers if opener not in waiting)


def _soft() -> KnownFrame | None:
    return next((known for known in known_frames("lock-exists") if known.id == "soft-file-lock"), None)


def _find_home_made(case: Case) -> Iterator[_Wait]:
    """Yield the loops that sleep until a file is gone, or until they can make it themselves, and speak of a lock."""
    for poll in find_polls(case):
        if poll.loop is None or poll.elsewhere or not _is_lock_loop(poll):
            continue
        frames = poll.thread.frames[poll.loop.depth :]
        text = (
            f"`{poll.loop.header}`"
            if not poll.loop.header.endswith("True")
            else f"`{poll.loop.calls[0]}`"
            if poll.loop.calls
            else ""
        )
        meaning = f"waits in a loop ({text}) until a lock file is gone"
        is_lasting = case.is_doubted and poll.looks >= MIN_LOOKS
        if case.evidence.lock_files:
            yield _Wait(poll.process, poll.thread, frames, meaning, case.evidence.lock_files, is_lasting)


def _is_lock_loop(poll: Poll) -> bool:
    if poll.loop is None:
        return False
    words = " ".join((poll.loop.header, *poll.loop.calls, *(frame.function for frame in poll.thread.frames[: poll.loop.depth + 1])))
    if any(_MAKES.search(call) for call in poll.loop.calls):
        return True
    return _WAITS_FOR_ABSENCE.search(poll.loop.header) is not None and _NAMED.search(words) is not None


def is_orphan(file: LockFile) -> bool:
    """Whether nobody can be said to hold it: its maker keeps it open (``FileBaton``) or is named in it (soft locks)."""
    return not file.openers and (file.is_owner_alive is False or (file.is_owner_alive is None and file.openers == ()))


def _weigh(wait: _Wait) -> Status:
    # Never more than supported: a builder on another host, or one that closed the file, cannot be excluded.
    is_soft = wait.known is not None and not wait.known.file
    is_named = len(wait.orphans) == 1 and (wait.is_tried or not is_soft)
    return Status.SUPPORTED if is_named and wait.is_lasting else Status.HYPOTHESIS


def _explain(case: Case, wait: _Wait, status: Status) -> Diagnosis:
    file, known, pid = next(iter(wait.orphans), None), wait.known, wait.process.ref.pid
    # The frame of the lock's own function for a library, the user's for a lock of his own.
    frame = wait.frames[0] if known is not None else own_frame(wait.frames)
    caller = own_frame(wait.frames)
    culprit = Culprit(
        kind="path", pid=pid, thread=wait.thread.name, frame=str(frame) if frame else None, path=file.path if file else None
    )
    need = Need(wait.process, known.library if known else "", case.version(known.library) if known else None, lock_file=file)
    found = f"{file.path}, whose maker is gone" if file else "a lock file that could not be found"
    mend = (
        "move it aside once every waiting process has ended, then start again"
        if file
        else "look for a file named lock in its cache"
    )
    where = f" for {caller}" if caller is not None and caller is not frame else ""
    return Diagnosis(
        cause=StaleLockFile.id,
        title="A lock file was left behind",
        summary=f"PID {pid} {wait.meaning}{where}, {found}: {mend}.",
        status=status,
        confidence=0.85 if status is Status.SUPPORTED and (known is not None or wait.is_tried) else CONFIDENCE[status],
        culprit=culprit,
        evidence=tuple(_state(wait, str(frame))),
        refuted_by="a process has the lock file open, or the file changes",
        remedies=choose_remedies(known.remedies if known else ("quarantine-lock-file",), need),
        fingerprint=fingerprint(StaleLockFile.id, culprit, wait.frames),
    )


def _state(wait: _Wait, frame: str) -> Iterator[Statement]:
    yield Statement(f"thread {wait.thread.name} of PID {wait.process.ref.pid} is in {frame}", "stack")
    for orphan in wait.orphans:
        owner = "nobody who could be asked has it open" if orphan.owner is None else f"its owner, PID {orphan.owner}, is dead"
        yield Statement(f"{orphan.path} is {orphan.age_s:.0f} s old and {owner}", "file")
        if orphan.path in wait.process.glimpses:
            yield Statement(
                f"the waiting process has {orphan.path} open for a moment each time, and no lock on it is known", "/proc/PID/fd"
            )
        elif wait.is_tried:
            yield Statement(f"the waiting loop asks for {orphan.path}, and no lock on it is known", "the process's memory")
