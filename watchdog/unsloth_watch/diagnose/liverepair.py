"""Which repair of the living job its evidence allows: at most one kind, and only what cannot damage data.

A cause alone is no licence. Each kind asks the evidence for its own conditions, and the act asks the machine for them once more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from unsloth_watch.diagnose.case import Case, main_thread
from unsloth_watch.diagnose.stalelock import is_tried
from unsloth_watch.model.diagnosis import Diagnosis, Status
from unsloth_watch.model.evidence import Descriptor, ProcessEvidence, ThreadEvidence
from unsloth_watch.model.repair import Repair, Target
from unsloth_watch.waits.wait import Class, classify

_READS_AND_WAITS = frozenset(
    {"read", "readv", "recvfrom", "recvmsg", "poll", "ppoll", "select", "pselect6", "epoll_wait", "epoll_pwait", "connect"}
)
_WRITES = frozenset({"write", "writev"})
_ALIVE = frozenset({"ESTABLISHED", "CLOSE_WAIT", "SYN_SENT"})
_O_ACCMODE = 3
_OUTPUT = re.compile(r"cache|checkpoint|output|^(out|logs?|runs?|te?mp)$", re.IGNORECASE)
"""Names of directories that programs write to."""
_DIRECTORY = re.compile(r"\b(is_dir|isdir|listdir|scandir|iterdir)\(")


def plan_repair(case: Case, diagnosis: Diagnosis) -> Repair | None:
    """Return the repair to try before anything is ended; None where there is none.

    Nothing is repaired on a hypothesis: the cause is established or supported, or the hang itself is proven.
    """
    is_proven = case.verdict is not None and case.verdict.is_proven
    if not is_proven and diagnosis.status not in {Status.ESTABLISHED, Status.SUPPORTED}:
        return None
    for plan in _PLANS:
        repair = plan(case, diagnosis)
        if repair is not None:
            return repair
    return None


def _continue_processes(case: Case, diagnosis: Diagnosis) -> Repair | None:
    """Continue what is stopped where the job waits for it; a stopped helper may be stopped for reasons of the job's own."""
    culprit = diagnosis.culprit.pid if diagnosis.culprit is not None else None
    stopped = [
        process
        for process in case.processes
        if process.state == "T"
        and process.tracer_pid == 0
        and (process is case.root or process.ref.pid == culprit or _is_awaited(case, process))
    ]
    if not stopped:
        return None
    return Repair(
        "continue-process",
        "SIGCONT lets it run on from where it was stopped; nothing is lost",
        tuple(Target(process.ref, _name(process)) for process in stopped),
    )


def _is_awaited(case: Case, process: ProcessEvidence) -> bool:
    """Whether the process's parent in the job waits for its end."""
    parents = (parent for parent in case.processes if parent.ref.pid == process.ppid)
    waits = (classify(thread, parent) for parent in parents for thread in parent.threads)
    return any(wait.kind is Class.CHILD and wait.child in {0, process.ref.pid} for wait in waits)


def _relieve_pipes(case: Case, diagnosis: Diagnosis) -> Repair | None:
    """Make room in a pipe that is full and whose reader is itself held up."""
    is_named = diagnosis.cause == "pipe-deadlock"
    is_proven = case.verdict is not None and case.verdict.is_proven
    if not is_named and not is_proven:
        return None
    targets = tuple(target for writer in case.processes for target in _full_pipes(case, writer))
    if not targets:
        return None
    return Repair(
        "relieve-pipe",
        "the writer is blocked on a full pipe whose reader waits for something else; room in the pipe lets both go on, and the "
        "reader still gets every byte",
        targets,
    )


def _full_pipes(case: Case, writer: ProcessEvidence) -> Iterator[Target]:
    for thread in writer.threads:
        if thread.call not in _WRITES or len(thread.wait_fds) != 1:
            continue
        name = next((one.target for one in writer.descriptors or () if one.fd == thread.wait_fds[0]), "")
        # A pipe that we hold ourselves is the command's output: our own relay is behind, and nobody is stuck.
        if not name.startswith("pipe:[") or name in case.evidence.outside:
            continue
        readers = [(process, one.fd) for process in case.processes for one in _ends(process, name, writes=False)]
        if not readers or any(_reads_from(process, name) for process, _ in readers):
            continue
        reader, fd = readers[0]
        writers = {process.ref for process in case.processes if any(True for _ in _ends(process, name, writes=True))}
        is_drainable = len(readers) == 1 and writers == {writer.ref} and _waits_for_end(case, reader, writer)
        yield Target(reader.ref, name, fd, writer.ref, is_drainable)


def _ends(process: ProcessEvidence, pipe: str, *, writes: bool) -> Iterator[Descriptor]:
    for descriptor in process.descriptors or ():
        if descriptor.target == pipe and descriptor.flags is not None:
            mode = descriptor.flags & _O_ACCMODE
            if mode == 2 or (mode == 1) == writes:
                yield descriptor


def _reads_from(process: ProcessEvidence, pipe: str) -> bool:
    """Whether a thread waits on that very pipe: then it is not forgotten."""
    fds = {one.fd for one in process.descriptors or () if one.target == pipe}
    return any(fds & set(thread.wait_fds) for thread in process.threads if thread.call not in _WRITES)


def _waits_for_end(case: Case, reader: ProcessEvidence, writer: ProcessEvidence) -> bool:
    """Whether the reader's main thread cannot go on before the writer has ended."""
    thread = main_thread(reader)
    if thread is None:
        return False
    wait = classify(thread, reader)
    if wait.kind is Class.CHILD:
        children = {process.ref for process in case.processes if process.ppid == reader.ref.pid}
        return wait.child == writer.ref.pid or (wait.child == 0 and children == {writer.ref})
    if wait.kind is not Class.CHANNEL or wait.is_write or len(wait.targets) != 1 or not wait.targets[0].startswith("pipe:["):
        return False
    other = wait.targets[0]
    return {process.ref for process in case.processes if any(True for _ in _ends(process, other, writes=True))} == {writer.ref}


def _shut_down_connections(case: Case, diagnosis: Diagnosis) -> Repair | None:
    """Shut the connection down that the culprit waits on, so that the library's own retry or error handling runs."""
    if diagnosis.cause != "network-stall":
        return None
    culprit = diagnosis.culprit.pid if diagnosis.culprit is not None else None
    process = next((process for process in case.processes if process.ref.pid == culprit), case.root)
    thread = _find_suspect(process, diagnosis) if process is not None else None
    if process is None or thread is None or thread.call not in _READS_AND_WAITS:
        return None
    # Ranks that talk to each other know no retry: their connections are not ours to end.
    if any("torch/distributed/" in frame.file for frame in thread.frames):
        return None
    waited = [one for one in process.descriptors or () if one.fd in thread.wait_fds and one.connection is not None]
    # A wait for many connections serves others too: which of them stalls cannot be told from here.
    open_ones = [one for one in waited if one.connection is not None and one.connection.state != "LISTEN"]
    if len(open_ones) != 1 or not _is_stalled_outside(case, open_ones[0]):
        return None
    peer = open_ones[0].connection.remote if open_ones[0].connection is not None else "its peer"
    why = f"no byte comes from {peer}; once the connection is shut down the wait ends, and the library may retry"
    return Repair("shut-down-connection", why, (Target(process.ref, open_ones[0].target, open_ones[0].fd),))


def _find_suspect(process: ProcessEvidence, diagnosis: Diagnosis) -> ThreadEvidence | None:
    """Return the thread that the diagnosis blames, else the main thread: others may wait on the network for good reasons."""
    name = diagnosis.culprit.thread if diagnosis.culprit is not None else None
    named = [thread for thread in process.threads if thread.name == name]
    return named[0] if len(named) == 1 else main_thread(process)


def _is_stalled_outside(case: Case, descriptor: Descriptor) -> bool:
    """Whether a TCP connection is open, has nothing left to read, and its other end is no process of the job."""
    connection = descriptor.connection
    if connection is None or not connection.kind.startswith("tcp") or connection.state not in _ALIVE or connection.unread_bytes:
        return False
    ends = {
        (one.connection.local, one.connection.remote)
        for process in case.processes
        for one in process.descriptors or ()
        if one.connection is not None
    }
    return connection.peer_pid not in case.pids and (connection.remote, connection.local) not in ends


def _make_directory(case: Case, diagnosis: Diagnosis) -> Repair | None:
    """Make a cache's missing directory, or one of the job's own that it may not write; or the directory that a saver waits for."""
    culprit = diagnosis.culprit
    process = next((one for one in case.processes if culprit is not None and one.ref.pid == culprit.pid), case.root)
    if process is None or culprit is None or not (culprit.path or "").startswith("/"):
        return None
    path = culprit.path or ""
    if diagnosis.cause == "poll-loop":
        # Only a place to write to. A directory to read from would be found empty: worse than the wait.
        is_wanted = _OUTPUT.search(path.rpartition("/")[2]) is not None and _asks_for_directory(process, path)
    elif diagnosis.cause == "compile-cache-unusable":
        probe = next((probe for probe in case.evidence.caches if probe.path == path), None)
        # A directory that exists and cannot be imported is not mended by making it (unsloth_zoo 2025.3.1).
        is_wanted = (
            probe is not None
            and probe.is_importable is not False
            and probe.shadowed_by is None
            and (not probe.exists or (probe.is_directory and probe.is_writable is False))
        )
    else:
        return None
    if not is_wanted:
        return None
    return Repair(
        "make-directory", f"{path} is missing or cannot be written, and the program waits for it", (Target(process.ref, path),)
    )


def _asks_for_directory(process: ProcessEvidence, path: str) -> bool:
    """Whether a loop of the process asks for a directory by its own words: a file of that name would be another thing."""
    loops = [loop for thread in process.threads for loop in thread.loops]
    asking = [loop for loop in loops if loop.target == path]
    texts = [f"{loop.question}(" for loop in asking] or [text for loop in loops for text in (loop.header, *loop.calls)]
    return any(_DIRECTORY.search(text) for text in texts)


def _release_lock_file(case: Case, diagnosis: Diagnosis) -> Repair | None:
    """Move a dead owner's lock file aside where its waiter only asks for it again and again.

    That is filelock's soft lock, which asks by O_EXCL. FileBaton's waiter must have ended before: it skips the build when the file
    goes away and then fails to open the library. Other loops are not known to be safe.
    """
    culprit = diagnosis.culprit
    if diagnosis.cause != "stale-lock-file" or culprit is None or not (culprit.path or "").startswith("/"):
        return None
    for process in case.processes:
        # The waiter wants that very file: another that lies near may be anybody's.
        if process.ref.pid != culprit.pid or not is_tried(process, culprit.path or ""):
            continue
        for thread in process.threads:
            if any("/filelock/" in frame.file for frame in thread.frames):
                why = f"the owner of {culprit.path} is gone, and filelock takes the lock as soon as the file is out of the way"
                return Repair("release-lock-file", why, (Target(process.ref, culprit.path or ""),))
    return None


def _name(process: ProcessEvidence) -> str:
    return f"PID {process.ref.pid} ({' '.join(process.command or ())[:80] or 'command unknown'})"


_PLANS: tuple[Callable[[Case, Diagnosis], Repair | None], ...] = (
    _continue_processes,
    _relieve_pipes,
    _shut_down_connections,
    _make_directory,
    _release_lock_file,
)
"""In this order: whatever else shows, a stopped process comes first."""
