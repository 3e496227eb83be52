"""``network-stall``: the program waits for another machine, or another program, that does not answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec

from unsloth_watch.diagnose.blame import trace
from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.fingerprint import fingerprint
from unsloth_watch.diagnose.frames import is_library, is_module, own_frame, plain_name
from unsloth_watch.diagnose.knowledge import KnownFrame, find_known
from unsloth_watch.diagnose.remedies import Need, choose_remedies, relaunch
from unsloth_watch.diagnose.rule import CONFIDENCE
from unsloth_watch.model.diagnosis import Culprit, Diagnosis, Remedy, Statement, Status
from unsloth_watch.model.evidence import Connection, Descriptor, Frame, ProcessEvidence, ThreadEvidence
from unsloth_watch.waits.loops import Loop
from unsloth_watch.waits.place import find_user_frame
from unsloth_watch.waits.wait import find_loop

_RECEIVES = frozenset({"recvfrom", "recvmsg", "recvmmsg", "read", "readv"})
_SENDS = frozenset({"sendto", "sendmsg", "sendmmsg", "write", "writev"})
_POLLS = frozenset({"poll", "ppoll", "select", "pselect6", "epoll_wait", "epoll_pwait", "epoll_pwait2"})
_TIMEOUT = re.compile(r"timeout (\d+(?:\.\d+)?(?:e[+-]?\d+)?) s$")
SHORT_S = 60.0
"""A wait with a shorter timeout ends by itself soon: it is a step of a retry loop rather than the stall."""
LASTING_S = 2.0
"""Seconds over which the samples must show one and the same connection without a byte."""
_MOVED_BYTES = 1024
# Bytes over all samples: keep-alives and TLS records of a silent connection are smaller.
_PEERLESS = ("0.0.0.0:0", "[::]:0", "*")
_DNS_PORT = "53"


class _Wait(msgspec.Struct, frozen=True):
    """A thread that waits for a socket.

    Attributes:
        process: Its process.
        thread: The thread.
        descriptor: The socket.
        connection: Its ends and state.
        known: What is known about the caller.
    """

    process: ProcessEvidence
    thread: ThreadEvidence
    descriptor: Descriptor
    connection: Connection
    known: KnownFrame | None

    @property
    def is_unbounded(self) -> bool:
        """Whether no timeout ends the wait before long."""
        phrase = self.thread.wait or ""
        match = _TIMEOUT.search(phrase)
        return not phrase.endswith("with a timeout") and (match is None or float(match[1]) >= SHORT_S)


class NetworkStall:
    """A thread blocked on a socket whose other end is not of this job, and over which nothing comes."""

    id = "network-stall"

    def judge(self, case: Case) -> Diagnosis | None:
        """Return the firmest wait; None where no thread waits for the network, or bytes still come."""
        found = trace(case)
        end = found.end if found is not None else None
        waits = [
            (status, share, wait)
            for wait in _find(case)
            for status, share in [_weigh(case, wait, is_end=(wait.process.ref.pid, wait.thread.tid) == end)]
            if status is not None
        ]
        if not waits:
            return None
        status, confidence, wait = max(waits, key=lambda item: item[1])
        return _explain(case, status, confidence, wait)


def _find(case: Case) -> Iterator[_Wait]:
    for process in case.processes:
        for thread in process.threads:
            if thread.state not in ("S", "D") or not (thread.frames or thread.is_main) or find_loop(thread) is Loop.MONITOR:
                continue
            for descriptor in _list_sockets(process, thread):
                connection = descriptor.connection
                if connection is not None and _is_waiting(thread, connection) and not _is_inside(case, connection):
                    yield _Wait(process, thread, descriptor, connection, find_known("network", _list_called(thread)))


def _list_called(thread: ThreadEvidence) -> Sequence[Frame]:
    """Return the frames that the user's own code called: a function that ``datasets`` maps over rows is no download of its."""
    user = find_user_frame(thread.frames)
    return thread.frames[: user[0]] if user is not None and not is_library(user[1].file) else thread.frames


def _list_sockets(process: ProcessEvidence, thread: ThreadEvidence) -> list[Descriptor]:
    """Return the sockets that a thread waits on; of an event loop's many those to other machines."""
    if thread.call not in _RECEIVES | _SENDS | _POLLS | {"connect", "accept", "accept4"}:
        return []
    found = [
        item
        for item in process.descriptors or ()
        if item.fd in thread.wait_fds and item.connection is not None and item.connection.kind != "unix"
    ]
    is_set = thread.call in _POLLS and len(found) > 1
    return [item for item in found if not is_set or (item.connection is not None and item.connection.state == "ESTABLISHED")]


def _is_waiting(thread: ThreadEvidence, connection: Connection) -> bool:
    """Whether the connection's state fits a wait for the other end."""
    if thread.call in ("accept", "accept4") or connection.state == "LISTEN":
        return connection.unread_bytes == 0
    if connection.unread_bytes and thread.call in _RECEIVES | _POLLS:
        return False  # there is something to read: it is about to run
    return connection.state in ("ESTABLISHED", "SYN_SENT", "FIN_WAIT1", "FIN_WAIT2") or connection.kind.startswith("udp")


def _is_inside(case: Case, connection: Connection) -> bool:
    """Whether the other end is a process of this job: then that one is to blame, and not the network."""
    if connection.peer_pid in case.pids:
        return True
    return any(
        (item.connection.local, item.connection.remote) == (connection.remote, connection.local)
        or item.target == connection.listener
        for process in case.processes
        for item in process.descriptors or ()
        if item.connection is not None
    )


def _weigh(case: Case, wait: _Wait, *, is_end: bool) -> tuple[Status | None, float]:
    """Return how firmly a wait stands and the confidence.

    Bytes that came in the last seconds refute it. The thread in which the job's waiting ends, without a timeout and in a job that
    is in doubt anyway, leaves no other reading; any other thread may just as well belong to a library that listens.

    Args:
        case: The case.
        wait: The wait.
        is_end: Whether the chain of waits from the job's main thread ends here.
    """
    moved = _count_bytes(case, wait.descriptor)
    if moved is not None and moved[0] >= _MOVED_BYTES:
        return None, 0.0
    is_listening = wait.connection.state == "LISTEN"
    if not is_end or _is_for_ranks(wait.thread):
        is_likely = (wait.known is not None or _awaits_threads(wait.process)) and not _is_for_ranks(wait.thread)
        return (Status.SUPPORTED, 0.55) if is_likely and not is_listening and case.is_doubted else (Status.HYPOTHESIS, 0.3)
    if is_listening:
        return (Status.SUPPORTED, 0.6) if case.is_doubted else (Status.HYPOTHESIS, 0.2)  # a server waits so for all its life
    if not wait.is_unbounded and not _is_resolving(wait):
        # A short timeout belongs to a loop. Where the same connection was silent all the time, the loop only waits for it.
        is_same = moved is not None and moved[0] == 0 and moved[1] >= LASTING_S
        return (Status.SUPPORTED, 0.6) if is_same and case.is_doubted else (Status.HYPOTHESIS, 0.3)
    if not case.is_doubted:
        return Status.HYPOTHESIS, 0.4  # a healthy program, too, may wait some seconds for an answer
    return (Status.SUPPORTED, 0.8) if wait.thread.call in _POLLS and len(wait.thread.wait_fds) > 2 else (Status.ESTABLISHED, 0.95)


def _is_for_ranks(thread: ThreadEvidence) -> bool:
    """Whether a thread asks a store that it has met before: that one is silent until another rank has written its part."""
    innermost = next((frame for frame in thread.frames if not frame.is_native), None)
    return innermost is not None and is_module(innermost.file, "torch.distributed.distributed_c10d")


def _awaits_threads(process: ProcessEvidence) -> bool:
    """Whether the main thread waits for a result of another thread."""
    main = process.main_thread
    names = {plain_name(frame.function) for frame in main.frames} if main is not None else set()
    return bool(names & {"result", "join", "_wait_for_tstate_lock", "wait", "as_completed"})


def _is_resolving(wait: _Wait) -> bool:
    return wait.connection.kind.startswith("udp") and wait.connection.remote.endswith(f":{_DNS_PORT}")


def _count_bytes(case: Case, descriptor: Descriptor) -> tuple[int, float] | None:
    """Return the bytes that went over a connection in the kept samples, and over how many seconds; None where none show it."""
    inode = descriptor.target.removeprefix("socket:[").removesuffix("]")
    seen = [
        (sample.at, item.received + item.sent)
        for sample in case.samples
        for item in sample.connections or ()
        if str(item.inode) == inode
    ]
    return (seen[-1][1] - seen[0][1], seen[-1][0] - seen[0][0]) if len(seen) > 1 else None


def _explain(case: Case, status: Status, confidence: float, wait: _Wait) -> Diagnosis:
    process, thread, connection, known = wait.process, wait.thread, wait.connection, wait.known
    frame = own_frame(thread.frames)
    peer = connection.local if connection.state == "LISTEN" else connection.remote
    who = f"{peer} ({connection.peer_command[:60]})" if connection.peer_command else peer
    culprit = Culprit(
        kind="peer",
        pid=process.ref.pid,
        thread=thread.name,
        frame=str(frame) if frame else None,
        peer=None if peer in _PEERLESS else who,
    )
    need = Need(process, known.library if known else "", case.version(known.library) if known else None)
    where = f" in {frame}" if frame else ""
    return Diagnosis(
        cause=NetworkStall.id,
        title="The network does not answer",
        summary=f"PID {process.ref.pid} {known.meaning if known else 'waits for the network'}{where}: {_describe(wait, who)}.",
        status=status,
        confidence=confidence if status is not Status.HYPOTHESIS else min(confidence, CONFIDENCE[status]),
        culprit=culprit,
        evidence=tuple(_state(case, wait, who)),
        refuted_by="bytes come over that connection, or its other end turns out to be a process of this job",
        remedies=(*choose_remedies(known.remedies if known else (), need), *_advise(wait, who)),
        fingerprint=fingerprint(NetworkStall.id, msgspec.structs.replace(culprit, peer=_host(peer)), thread.frames),
    )


def _host(peer: str) -> str:
    return peer.rpartition(":")[0]


def _describe(wait: _Wait, who: str) -> str:
    state = wait.connection.state
    if state == "LISTEN":
        return f"it listens on {who}, and nobody connects"
    if _is_resolving(wait):
        return f"the name server {who} does not answer"
    if state == "SYN_SENT":
        return f"{who} does not answer the request for a connection: it is down, or a firewall drops it"
    if wait.thread.call in _SENDS or wait.connection.unsent_bytes:
        return f"{who} takes no more data, {wait.connection.unsent_bytes} bytes are not acknowledged"
    if any(plain_name(frame.function) == "do_handshake" for frame in wait.thread.frames):
        return f"{who} accepted the connection and does not answer the TLS handshake"
    return f"{who} sends nothing"


def _state(case: Case, wait: _Wait, who: str) -> Iterator[Statement]:
    thread, connection = wait.thread, wait.connection
    yield Statement(f"thread {thread.name} of PID {wait.process.ref.pid}: {thread.wait or thread.call}", "/proc/PID/syscall")
    yield Statement(f"fd {wait.descriptor.fd} is {connection}", "/proc/net")
    moved = _count_bytes(case, wait.descriptor)
    if moved is not None:
        yield Statement(f"{moved[0]} bytes went over it in {moved[1]:.0f} s", "socket diagnosis")
    if connection.peer_pid is not None:
        yield Statement(f"the other end is PID {connection.peer_pid} of this machine, which is not part of the job", "/proc/PID/fd")
    caller = next((frame for frame in thread.frames if not frame.is_native and not is_module(frame.file, "socket")), None)
    if caller is not None:
        yield Statement(f"it was asked for by {caller}", "stack")
    for process in case.processes:
        for item in process.descriptors or ():
            if item.target.endswith(".incomplete"):
                yield Statement(f"{item.target} is {item.offset or 0} bytes long and not finished", "/proc/PID/fdinfo")


def _advise(wait: _Wait, who: str) -> tuple[Remedy, ...]:
    if wait.connection.state == "LISTEN":
        return (
            Remedy(
                "start-peer",
                f"the program goes on as soon as somebody connects to {who}",
                "advice",
                advice="look at why the other side did not come",
            ),
            relaunch("what should connect may have failed to start, and may come at the next attempt"),
        )
    if wait.connection.state == "SYN_SENT" or _is_resolving(wait):
        return (
            Remedy("check-network", f"{who} has to answer first", "advice", advice=f"check that {who} can be reached from here"),
            relaunch("it may answer the next attempt"),
        )
    if wait.known is not None and wait.known.id == "torch-rendezvous":
        peer = wait.connection.remote
        advice = f"check that MASTER_ADDR and MASTER_PORT name rank 0 of this job: what listens on {peer} is no store, or it hangs"
        why = f"{peer} has to answer as a store does"
        return (relaunch("rank 0 may answer the next attempt"), Remedy("check-rendezvous", why, "advice", advice=advice))
    why = f"a new connection to {who} may be answered; give the call a timeout so that it tries again by itself"
    return (relaunch(why),)
