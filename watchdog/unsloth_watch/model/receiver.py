"""A thread that takes or sends data which no kernel counts: through a UNIX or UDP socket, or one of another kind without totals."""

from __future__ import annotations

import msgspec

from unsloth_watch.model.process import ProcessRef


class Receiver(msgspec.Struct, frozen=True, array_like=True):
    """A thread that was found waiting for such data, and how to know it there again.

    Attributes:
        ref: Its process.
        tid: Thread id.
        source: What it waits on, in words: ``a UNIX socket``.
        syscall: Number of the system call in which it waited.
        is_send: Whether it waited to send, for the other end to take what it had sent before.
        is_poll: Whether it waits for several descriptors, with poll, select or epoll.
        limit_s: Longest time limit that such a wait of its was seen to have, seconds; None where it has none, or it is unknown.
    """

    ref: ProcessRef
    tid: int
    source: str
    syscall: int
    is_send: bool = False
    is_poll: bool = False
    limit_s: float | None = None


class ReceiverSample(msgspec.Struct, frozen=True, array_like=True):
    """What one tick saw of such a thread. Counters are totals since its start; None means unreadable.

    Attributes:
        receiver: Who it is.
        is_there: Whether it waits in that call; None where it runs, or that is unreadable.
        vctx: Voluntary context switches: how often it went to sleep.
        reads: Its calls of read(2) and the like, which recv(2) is none of.
    """

    receiver: Receiver
    is_there: bool | None
    vctx: int | None
    reads: int | None
