"""``filesystem-stall``: a file system does not answer: its server, its disk, or somebody who froze it."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.fingerprint import fingerprint
from unsloth_watch.diagnose.frames import own_frame
from unsloth_watch.diagnose.rule import CONFIDENCE
from unsloth_watch.model.diagnosis import Culprit, Diagnosis, Remedy, Statement, Status
from unsloth_watch.model.evidence import MountEvidence, ProcessEvidence, ThreadEvidence

SERVERS: tuple[tuple[str, str], ...] = (
    ("request_wait_answer", "the program behind a FUSE file system"),
    ("fuse_", "the program behind a FUSE file system"),
    ("percpu_rwsem_wait", "somebody who froze the file system (fsfreeze, a snapshot)"),
    ("rpc_wait", "the NFS server"),
    ("nfs", "the NFS server"),
    ("wait_for_response", "the CIFS server"),
    ("cifs_", "the CIFS server"),
    ("ptlrpc_", "the Lustre server"),
    ("ldlm_", "the Lustre server"),
    ("cl_sync_io_wait", "the Lustre server"),
    ("cxiWaitEvent", "the GPFS daemon"),
    ("ceph_", "the Ceph cluster"),
    ("autofs_wait", "the automounter"),
    ("p9_client_rpc", "the 9P server, which is the host of a virtual machine"),
)
"""Beginning of the kernel function that a thread sleeps in, and whose answer it waits for there."""
DISK_CHANNELS = (
    "folio_wait",
    "wait_on_page",
    "io_schedule",
    "jbd2_",
    "xfs_",
    "ext4_",
    "btrfs_",
    "blk_",
    "submit_bio_wait",
    "do_get_write",
)
"""Beginnings of functions that wait for a disk; every healthy program is there for some milliseconds now and then."""
_MIN_SEEN = 3
# Samples in state D in a row that make a wait for a disk a stall.
_REMOTE_TYPES = ("nfs", "cifs", "smb", "ceph", "lustre", "gpfs", "9p", "fuse", "afs", "beegfs", "virtiofs")


class _Wait(msgspec.Struct, frozen=True):
    """A thread that waits for a file system.

    Attributes:
        process: Its process.
        thread: The thread.
        server: Whose answer it waits for; empty for a disk.
        mount: The file system, where it is known.
        path: The path, where it is known.
    """

    process: ProcessEvidence
    thread: ThreadEvidence
    server: str
    mount: MountEvidence | None
    path: str | None


class FilesystemStall:
    """A thread in a kernel function that waits for a file system's server, or in state D for a disk all the time."""

    id = "filesystem-stall"

    def judge(self, case: Case) -> Diagnosis | None:
        """Return the firmest wait; None where no thread waits for a file system."""
        waits = [(status, wait) for wait in _find(case) for status in [_weigh(case, wait)] if status is not None]
        if not waits:
            return None
        status, wait = max(waits, key=lambda pair: (CONFIDENCE[pair[0]], pair[1].thread.is_main))
        return _explain(case, status, wait)


def _find(case: Case) -> Iterator[_Wait]:
    for process in case.processes:
        for thread in process.threads:
            channel = thread.wait_channel or ""
            server = next((words for start, words in SERVERS if channel.startswith(start)), "")
            is_disk = thread.state == "D" and (
                channel.startswith(DISK_CHANNELS) or thread.call in ("fsync", "fdatasync", "sync", "syncfs")
            )
            if thread.state not in ("S", "D") or not (server or is_disk) or thread.call in ("vfork", "futex"):
                continue
            mount, path = _find_place(case, process, thread)
            yield _Wait(process, thread, server, mount, path)


def _find_place(case: Case, process: ProcessEvidence, thread: ThreadEvidence) -> tuple[MountEvidence | None, str | None]:
    """Return file system and path: of the call, or the one remote file system that the process has files of (a mapped page)."""
    if thread.wait_path is not None:
        around = [mount for mount in case.evidence.mounts if _is_on(thread.wait_path, mount.point)]
        return max(around, key=lambda mount: len(mount.point), default=None), thread.wait_path
    remote = [mount for mount in case.evidence.mounts if mount.type.startswith(_REMOTE_TYPES)]
    opened = [
        (mount, item.target)
        for mount in remote
        for item in process.descriptors or ()
        if item.target.startswith("/") and _is_on(item.target, mount.point)
    ]
    if len({mount.point for mount, _ in opened}) == 1:
        return opened[0][0], opened[0][1] if len(opened) == 1 else None
    return (remote[0] if len(remote) == 1 else None), None


def _is_on(path: str, point: str) -> bool:
    return point in {"/", path} or path.startswith(point + "/")


def _weigh(case: Case, wait: _Wait) -> Status | None:
    if wait.server:
        if not case.is_doubted:
            return Status.HYPOTHESIS  # on a slow network file system a healthy program is there most of the time
        return Status.ESTABLISHED if wait.thread.is_main or len(wait.process.threads) == 1 else Status.SUPPORTED
    states = [
        process.thread_states.get("D", 0) > 0 if process.thread_states else process.state == "D"
        for sample in case.samples
        for process in sample.processes or ()
        if process.ref == wait.process.ref
    ]
    if len(states) >= _MIN_SEEN and all(states[-_MIN_SEEN:]):
        return Status.SUPPORTED
    return Status.HYPOTHESIS


def _explain(case: Case, status: Status, wait: _Wait) -> Diagnosis:
    pid, thread = wait.process.ref.pid, wait.thread
    frame = own_frame(thread.frames)
    place = wait.path or (wait.mount.point if wait.mount else None)
    source = f"{wait.mount.type} from {wait.mount.source}" if wait.mount is not None else None
    culprit = Culprit(kind="path", pid=pid, thread=thread.name, frame=str(frame) if frame else None, path=place, peer=source)
    who = wait.server or "the disk"
    on = f" on {wait.mount.point} ({source})" if wait.mount is not None else ""
    where = f" in {frame}" if frame else ""
    return Diagnosis(
        cause=FilesystemStall.id,
        title="A file system does not answer",
        summary=f"PID {pid} waits{where} for {place or 'a file'}{on}: {who} does not answer.",
        status=status,
        confidence=CONFIDENCE[status],
        culprit=culprit,
        evidence=tuple(_state(wait)),
        refuted_by="the same path can be read from another process at the same time, or the thread leaves that kernel function",
        remedies=tuple(_advise(wait, place)),
        fingerprint=fingerprint(FilesystemStall.id, culprit, thread.frames),
    )


def _state(wait: _Wait) -> Iterator[Statement]:
    thread, pid = wait.thread, wait.process.ref.pid
    yield Statement(
        f"thread {thread.name} of PID {pid} is in state {thread.state}, kernel function {thread.wait_channel or 'unknown'}",
        "/proc/PID/wchan",
    )
    if thread.wait is not None:
        yield Statement(f"its call: {thread.wait}", "/proc/PID/syscall")
    if wait.mount is not None:
        free = "" if wait.mount.free_bytes is None else f", {wait.mount.free_bytes >> 20} MiB free"
        yield Statement(f"{wait.mount.point} is {wait.mount.type} from {wait.mount.source}{free}", "/proc/PID/mountinfo")


def _advise(wait: _Wait, place: str | None) -> Iterator[Remedy]:
    what = wait.mount.point if wait.mount is not None else place or "the file system"
    yield Remedy(
        id="mend-file-system",
        why="a new attempt on the same file system would wait in the same way, and a process in state D cannot be ended",
        kind="advice",
        advice=f"bring {wait.server or 'the disk'} back, or move the job's files off {what}; fsfreeze -u {what} where it was frozen"
        if "froze" in wait.server
        else f"bring {wait.server or 'the disk'} back, or move the job's files off {what}",
    )
