"""One thread's wait, reduced to the question: who could end it?"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

from unsloth_watch.model.evidence import Descriptor, Frame, ProcessEvidence, ThreadEvidence
from unsloth_watch.waits.loops import LOOPS, POLLING, WAITING_FILES, Loop

_READS = frozenset({"read", "readv", "pread64", "preadv", "recvfrom", "recvmsg", "recvmmsg", "accept", "accept4"})
_WRITES = frozenset({"write", "writev", "pwrite64", "pwritev", "sendto", "sendmsg", "sendmmsg"})
_POLLS = frozenset({"poll", "ppoll", "select", "pselect6", "epoll_wait", "epoll_pwait", "epoll_pwait2"})
CHANNEL_CALLS = _READS | _WRITES | _POLLS
"""Calls that wait for what descriptors bring."""
_SLEEPS = frozenset({"nanosleep", "clock_nanosleep"})
_TIME_LIMITS = {"poll": 2, "ppoll": 2, "select": 4, "pselect6": 4}
# Which argument of a call is its time limit.
_CHILDREN = frozenset({"wait4", "waitid"})
_EPOLLS = frozenset({"epoll_wait", "epoll_pwait", "epoll_pwait2"})
_VFORKS = frozenset({"vfork", "clone", "clone3"})
_VFORK_CHANNELS = frozenset({"kernel_clone", "_do_fork", "wait_for_vfork_done"})
# Where vfork(2) waits until its child calls exec or ends, uninterruptible but for SIGKILL; _do_fork before Linux 5.10.
_SETLKW = (7, 38)  # F_SETLKW and F_OFD_SETLKW
_NO_WAIT = ("freez", "signal_stop", "ptrace", "seccomp")
# Kernel functions that hold a thread whatever call it was in: cgroup freezer, job control, tracers, supervisors of system calls.
_FUTEX_COMMANDS = frozenset({0, 6, 9, 11, 13})  # WAIT, LOCK_PI, WAIT_BITSET, WAIT_REQUEUE_PI, LOCK_PI2


class Class(str, enum.Enum):
    """What kind of wait it is."""

    RUNNING = "running"
    """It runs, or may run at any moment."""
    TIMED = "timed"
    """It wakes by itself."""
    INTERPRETER = "interpreter"
    """The interpreter lock: it wakes every 5 ms and asks again, and goes on when whoever holds it lets go."""
    MEMORY = "memory"
    """A futex without a timeout: only somebody who shares the memory can wake it."""
    CHANNEL = "channel"
    """Descriptors without a timeout: whoever holds the other end."""
    CHILD = "child"
    """The end of a child."""
    LOCK = "lock"
    """A lock on a file: its holder."""
    STOPPED = "stopped"
    """Stopped by a signal: whoever sends SIGCONT."""
    OUTSIDE = "outside"
    """Something that is not of the job: a device, a signal, a server, a disk."""
    UNKNOWN = "unknown"
    """It could not be read."""


class Wait(msgspec.Struct, frozen=True):
    """A thread's wait.

    Attributes:
        kind: Its class.
        why: One phrase for people.
        targets: What its descriptors stand for (``pipe:[n]``, ``socket:[n]``, ``eventfd 7``, ``pidfd 4711``, a path), of a CHANNEL,
            a LOCK, or a poll with a timeout.
        is_write: Whether it waits to write.
        child: PID of the child it waits for, 0 for any.
        memory: Where a shared futex lies (``device:inode:offset``); empty for a private one, and where it could not be read.
        loop: The known loop that it is in, where there is one.
    """

    kind: Class
    why: str
    targets: tuple[str, ...] = ()
    is_write: bool = False
    child: int = 0
    loop: Loop | None = None
    memory: str = ""


def classify(thread: ThreadEvidence, process: ProcessEvidence) -> Wait:  # noqa: PLR0911 - one return a class reads best
    """Return what a thread waits for; UNKNOWN rather than a guess."""
    phrase = thread.wait or f"state {thread.state}"
    if thread.state == "R":
        return Wait(Class.RUNNING, "it runs")
    if thread.state == "T" and not process.tracer_pid:
        return Wait(Class.STOPPED, "it was stopped by a signal")
    if thread.state == "D" and thread.call in _VFORKS and thread.wait_channel in _VFORK_CHANNELS:
        return Wait(Class.CHILD, phrase)
    if thread.state in ("D", "T", "t"):
        return Wait(Class.OUTSIDE, f"state {thread.state}, {thread.wait_channel or 'unknown channel'}")
    if any(sign in (thread.wait_channel or "") for sign in _NO_WAIT):
        return Wait(Class.OUTSIDE, f"held by the kernel in {thread.wait_channel}")
    if thread.state != "S" or thread.call is None:
        return Wait(Class.UNKNOWN, phrase)
    loop = find_loop(thread)
    wait = _classify_call(thread, process, phrase)
    if wait.kind is Class.INTERPRETER:
        return wait  # a loop that waits for this does not look after anything
    if loop is Loop.POLL and thread.is_bounded:
        return wait  # it is the program that goes on when its time is up
    if loop is not None and (wait.kind is Class.TIMED or loop not in POLLING):
        # A known loop that goes back after every time-out waits as if it had none.
        return msgspec.structs.replace(wait, loop=loop)
    return wait


def find_loop(thread: ThreadEvidence) -> Loop | None:
    """Return the known loop that a thread waits in, by its frames; None where it does anything else on behalf of that loop."""
    depth = find_loop_depth(thread)
    if depth is None:
        return None
    return _name_loop(thread.frames[depth])


def find_loop_depth(thread: ThreadEvidence) -> int | None:
    """Return the place of a known loop's frame in a stack, where all frames inside of it only wait; None for any other stack."""
    for depth, frame in enumerate(thread.frames):
        if _name_loop(frame) is not None:
            return depth
        if not frame.is_native and not frame.file.endswith(WAITING_FILES):
            return None
    return None


def find_outer_loop(thread: ThreadEvidence) -> int | None:
    """Return the place of a known loop's frame in a stack, whatever is done inside of it; None where there is none."""
    return next((depth for depth, frame in enumerate(thread.frames) if _name_loop(frame) is not None), None)


def _name_loop(frame: Frame) -> Loop | None:
    name = frame.function.rsplit(".", 1)[-1]
    return next((loop for file, function, loop in LOOPS if function == name and frame.file.endswith(file)), None)


def _classify_call(thread: ThreadEvidence, process: ProcessEvidence, phrase: str) -> Wait:  # noqa: PLR0911 - one return a class reads best
    call, args = thread.call, (*thread.syscall_args, 0, 0, 0, 0, 0, 0)
    fds = thread.wait_fds[1:] if call in _EPOLLS else thread.wait_fds  # the first is the set itself
    # Most threads wait for memory: those of a large process must not cost as much as its descriptors each.
    names = {descriptor.fd: identify(descriptor) for descriptor in process.descriptors or ()} if fds else {}
    targets = tuple(names.get(fd, "?") for fd in fds)
    if call == "futex":
        if args[1] & 0x7F not in _FUTEX_COMMANDS:
            return Wait(Class.UNKNOWN, phrase)
        if thread.awaits_gil:
            return Wait(Class.INTERPRETER, "asks for the interpreter lock every 5 ms")
        kind = Class.TIMED if args[3] else Class.MEMORY
        return Wait(kind, phrase, memory=thread.futex or "")
    if thread.has_socket_timeout:
        return Wait(Class.TIMED, f"{phrase}, with a time-out of the socket", targets, is_write=call in _WRITES)
    if call in _READS or call in _WRITES:
        return Wait(Class.CHANNEL, phrase, targets, is_write=call in _WRITES)
    if call in _POLLS:
        is_untimed = phrase.endswith("no timeout")
        return Wait(Class.CHANNEL if is_untimed else Class.TIMED, phrase, targets)
    if call in _CHILDREN:
        return _classify_child(call, args, phrase, targets)
    if call == "flock" or (call == "fcntl" and args[1] in _SETLKW):
        return Wait(Class.LOCK, phrase, targets)
    if is_sleep(call, args):
        return Wait(Class.TIMED, phrase)
    return Wait(Class.OUTSIDE, phrase)


def is_sleep(call: str | None, args: Sequence[int]) -> bool:
    """Whether a call does nothing but wait for some time.

    Python's ``time.sleep`` is ``select`` without descriptors before 3.11, which the C library makes ``pselect6`` of.

    Args:
        call: Its name; None for none.
        args: Its raw arguments.
    """
    if call in _SLEEPS:
        return True
    place = _TIME_LIMITS.get(call or "")
    if place is None or len(args) <= place:
        return False
    is_poll = call == "poll"
    count, limit = args[1 if call in ("poll", "ppoll") else 0], args[place]
    # poll's is a C ``int`` of milliseconds, negative for ever; the others' are pointers.
    return count & 0xFFFFFFFF == 0 and (not limit >> 31 & 1 if is_poll else limit != 0)


def find_joined(thread: ThreadEvidence, process: ProcessEvidence) -> ThreadEvidence | None:
    """Return the thread whose end a thread waits for; None for any other wait.

    pthread_join(3) of glibc waits while a word of its thread, which the kernel clears at the thread's end, still holds its id: a
    futex that is not private by its flag (the kernel's own wake-up is not), in memory that nobody shares.
    """
    args = (*thread.syscall_args, 0, 0, 0, 0)
    # FUTEX_WAIT or FUTEX_WAIT_BITSET, without FUTEX_PRIVATE_FLAG, and without a timeout.
    is_join = args[1] & 0x7F in (0, 9) and not args[1] & 0x80 and args[3] == 0 and thread.futex is None
    if thread.call != "futex" or not is_join:
        return None
    return next((other for other in process.threads if other.tid == args[2] & 0xFFFFFFFF and other is not thread), None)


def identify(descriptor: Descriptor) -> str:
    """Return what a descriptor stands for: its target, and ``eventfd 7`` or ``pidfd 4711`` where that says nothing."""
    return descriptor.peer if descriptor.peer and descriptor.peer.startswith(("eventfd ", "pidfd ")) else descriptor.target


def _classify_child(call: str | None, args: tuple[int, ...], phrase: str, targets: tuple[str, ...]) -> Wait:
    if call == "wait4":
        pid = args[0] & 0xFFFFFFFF
        return Wait(Class.CHILD, phrase, child=pid if 0 < pid < 1 << 31 else 0)
    kind, number = args[0] & 0xFFFFFFFF, args[1] & 0xFFFFFFFF
    if kind == 3:  # P_PIDFD: the number is a descriptor
        return Wait(Class.CHANNEL, phrase, targets)
    return Wait(Class.CHILD, phrase, child=number if kind == 1 else 0)
