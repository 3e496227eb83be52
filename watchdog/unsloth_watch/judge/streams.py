"""Who waits for bytes of a pipe, of a UNIX socket or of a slow file system.

The kernel counts what passes over a TCP connection, and where somebody stands in a file. A pipe has neither, and pread(2) moves no
offset: that a program is fed so shows in its own totals alone, together with whatever else it reads. So those totals count only of
a process that a survey found at such a wait. What passes through a UNIX socket by recv(2) and send(2) is in no total at all: see
``receipts``.
"""

from __future__ import annotations

from unsloth_watch.model.evidence import Evidence, ProcessEvidence
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.waits.loops import Loop
from unsloth_watch.waits.wait import Class, classify

_CALLS = frozenset({"read", "readv", "pread64", "preadv", "preadv2", "write", "writev", "pwrite64", "pwritev", "pwritev2"})


def find_streams(survey: Evidence) -> frozenset[ProcessRef]:
    """Return the processes of which a thread waits to read or to write, other than over TCP."""
    return frozenset(process.ref for process in survey.processes if _is_at_stream(process))


def _is_at_stream(process: ProcessEvidence) -> bool:
    sockets = {one.target for one in process.descriptors or () if one.connection is not None and one.connection.kind == "unix"}
    for thread in process.threads:
        if thread.state == "D" and thread.call in _CALLS:
            return True
        wait = classify(thread, process)
        if wait.kind not in (Class.CHANNEL, Class.TIMED) or wait.loop is Loop.MONITOR:
            continue
        if any(_is_pipe(target) or target in sockets for target in wait.targets):
            return True
    return False


def _is_pipe(target: str) -> bool:
    """Whether it is a pipe, or a path that can be waited on, which is a FIFO or on FUSE where it is no device."""
    return target.startswith("pipe:[") or (target.startswith("/") and not target.startswith("/dev/"))
