"""One thread's wait, reduced to the question: who could end it?"""

from __future__ import annotations

import enum

import msgspec

from unsloth_watch.model.evidence import ProcessEvidence, ThreadEvidence
from unsloth_watch.waits.loops import LOOPS, Loop

_READS = frozenset({"read", "readv", "pread64", "preadv", "recvfrom", "recvmsg", "recvmmsg", "accept", "accept4"})
_WRITES = frozenset({"write", "writev", "pwrite64", "pwritev", "sendto", "sendmsg", "sendmmsg"})
_POLLS = frozenset({"poll", "ppoll", "select", "pselect6", "epoll_wait", "epoll_pwait", "epoll_pwait2"})
_CHILDREN = frozenset({"wait4", "waitid"})
_LOCKS = frozenset({"flock", "fcntl"})
_FUTEX_PRIVATE = 0x80
_FUTEX_COMMANDS = frozenset({0, 6, 9, 11, 13})  # WAIT, LOCK_PI, WAIT_BITSET, WAIT_REQUEUE_PI, LOCK_PI2


class Class(str, enum.Enum):
    """What kind of wait it is."""

    RUNNING = "running"
    """It runs, or may run at any moment."""
    TIMED = "timed"
    """It wakes by itself."""
    MEMORY = "memory"
    """A futex without a timeout: only somebody who shares the memory can wake it."""
    CHANNEL = "channel"
    """Descriptors without a timeout: whoever holds the other end."""
    CHILD = "child"
    """The end of a child."""
    LOCK = "lock"
    """A lock on a file: its holder."""
    OUTSIDE = "outside"
    """Something that is not of the job: a device, a signal, a server, a disk."""
    UNKNOWN = "unknown"
    """It could not be read."""


class Wait(msgspec.Struct, frozen=True):
    """A thread's wait.

    Attributes:
        kind: Its class.
        why: One phrase for people.
        targets: What its descriptors stand for (``pipe:[n]``), of a CHANNEL or LOCK.
        is_write: Whether it waits to write.
        child: PID of the child it waits for, 0 for any.
        is_shared: Whether a MEMORY wait may be ended from another process too.
        loop: The known loop that it is in, where there is one.
    """

    kind: Class
    why: str
    targets: tuple[str, ...] = ()
    is_write: bool = False
    child: int = 0
    is_shared: bool = False
    loop: Loop | None = None


def classify(thread: ThreadEvidence, process: ProcessEvidence) -> Wait:
    """Return what a thread waits for; UNKNOWN rather than a guess."""
    phrase = thread.wait or f"state {thread.state}"
    if thread.state == "R":
        return Wait(Class.RUNNING, "it runs")
    if thread.state in ("D", "T", "t"):
        return Wait(Class.OUTSIDE, f"state {thread.state}, {thread.wait_channel or 'unknown channel'}")
    if thread.state != "S" or thread.call is None:
        return Wait(Class.UNKNOWN, phrase)
    loop = find_loop(thread)
    wait = _classify_call(thread, process, phrase)
    if loop is not None and (wait.kind is Class.TIMED or loop is Loop.MONITOR):
        # A known loop that goes back after every time-out waits as if it had none.
        return msgspec.structs.replace(wait, loop=loop)
    return wait


def find_loop(thread: ThreadEvidence) -> Loop | None:
    """Return the known loop that a thread is in, by its frames, else by its name."""
    for frame in thread.frames:
        name = frame.function.rsplit(".", 1)[-1]
        for file, function, loop in LOOPS:
            if function == name and frame.file.endswith(file):
                return loop
    return None


def _classify_call(thread: ThreadEvidence, process: ProcessEvidence, phrase: str) -> Wait:  # noqa: PLR0911 - one return a class reads best
    call, args = thread.call, (*thread.syscall_args, 0, 0, 0, 0, 0, 0)
    names = {descriptor.fd: descriptor.target for descriptor in process.descriptors or ()}
    targets = tuple(names.get(fd, "?") for fd in thread.wait_fds)
    if call == "futex":
        if args[1] & 0x7F not in _FUTEX_COMMANDS:
            return Wait(Class.UNKNOWN, phrase)
        kind = Class.TIMED if args[3] else Class.MEMORY
        return Wait(kind, phrase, is_shared=not args[1] & _FUTEX_PRIVATE)
    if call in _READS or call in _WRITES:
        return Wait(Class.CHANNEL, phrase, targets, is_write=call in _WRITES)
    if call in _POLLS:
        is_untimed = phrase.endswith("no timeout")
        return Wait(Class.CHANNEL if is_untimed else Class.TIMED, phrase, targets)
    if call in _CHILDREN:
        return _classify_child(call, args, phrase, targets)
    if call in _LOCKS:
        return Wait(Class.LOCK, phrase, targets)
    if call in ("nanosleep", "clock_nanosleep"):
        return Wait(Class.TIMED, phrase)
    return Wait(Class.OUTSIDE, phrase)


def _classify_child(call: str | None, args: tuple[int, ...], phrase: str, targets: tuple[str, ...]) -> Wait:
    if call == "wait4":
        pid = args[0] & 0xFFFFFFFF
        return Wait(Class.CHILD, phrase, child=pid if 0 < pid < 1 << 31 else 0)
    kind, number = args[0] & 0xFFFFFFFF, args[1] & 0xFFFFFFFF
    if kind == 3:  # P_PIDFD: the number is a descriptor
        return Wait(Class.CHANNEL, phrase, targets)
    return Wait(Class.CHILD, phrase, child=number if kind == 1 else 0)
