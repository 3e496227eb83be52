"""What a thread wants, as its stack says: futexes all look alike, frames tell a lock from a queue and a thread from a worker."""

from __future__ import annotations

import enum
import itertools
import re
from collections.abc import Sequence

import msgspec

from unsloth_watch.model.evidence import Frame, ProcessEvidence, SourceLine, ThreadEvidence
from unsloth_watch.waits.functions import BETWEEN, FUNCTIONS, TASKS
from unsloth_watch.waits.loops import DEVICE_THREADS, IDLE_THREADS, Loop
from unsloth_watch.waits.place import find_user_frame, is_forked, is_looking, is_place, is_proxy, own_frames, plain_name
from unsloth_watch.waits.scene import has_ended
from unsloth_watch.waits.wait import Class, classify, find_joined, find_loop, is_sleep


class Aim(str, enum.Enum):
    """What kind of thing a thread waits for."""

    LOCK = "lock"
    """A lock of Python, by ``with`` or ``acquire``."""
    SHARED_LOCK = "shared lock"
    """A lock of ``multiprocessing``, which all processes of the job share."""
    MUTEX = "mutex"
    """A lock of native code."""
    OPENMP = "OpenMP team"
    """The other threads of an OpenMP team."""
    EVENT = "event"
    """Somebody's signal: event, condition, semaphore, barrier."""
    QUEUE = "queue"
    """An item of a queue within the process."""
    FUTURE = "future"
    """The result of a task of an executor."""
    THREAD = "thread"
    """The end of another thread."""
    CHILD = "child"
    """The end of a child process."""
    WORKERS = "workers"
    """Results of worker processes."""
    CHANNEL = "channel"
    """Bytes, or room for bytes, in a pipe or socket."""
    FILE_LOCK = "file lock"
    """A lock on a file."""
    IMPORT = "import"
    """The lock of a module that somebody imports."""
    LOOP = "event loop"
    """Any event of an asyncio loop."""
    COLLECTIVE = "collective"
    """The other ranks."""
    SIGNAL = "signal"
    """A signal."""
    GIL = "interpreter lock"
    """The interpreter lock of Python."""
    IDLE = "idle"
    """It is a pool's thread or worker without a task, or it looks after something by the clock."""
    TIMED = "clock"
    """It goes on by the clock."""
    RUNNING = "running"
    """It runs."""
    STOPPED = "stopped"
    """It was stopped by a signal or a tracer."""
    ENDED = "ended"
    """Its process has ended and nobody has asked for its status."""
    OUTSIDE = "outside"
    """Something that is not of the job."""
    UNKNOWN = "unknown"
    """It cannot be said."""


class Want(msgspec.Struct, frozen=True):
    """What a thread wants.

    Attributes:
        aim: Its kind.
        words: For people: ``waits for the lock disk``.
        name: The library function that waits (``Queue.get``) or the lock's expression; empty if unknown.
        frame: Where the user's code waits, else the innermost Python frame; None without a Python stack.
        file: File of the lock's expression; empty where the name is none.
        address: Address of the futex; None for other waits.
        asked: What it asks for where it goes on by the clock: the end of a thread, say; None for what is not known.
        tid: The thread whose end it waits for, where the wait itself names it.
    """

    aim: Aim
    words: str
    name: str = ""
    frame: Frame | None = None
    file: str = ""
    address: int | None = None
    asked: Aim | None = None
    tid: int | None = None


_FIFO_CHANNEL = "wait_for_partner"  # the kernel's function in which open(2) of a FIFO waits
_FUTEX_COMMAND = 0x7F
_CONTENDED = 2
_GIL_FUNCTIONS = frozenset(
    {"take_gil", "PyEval_RestoreThread", "PyEval_AcquireThread", "PyEval_AcquireLock", "PyGILState_Ensure", "_PyThreadState_Attach"}
)
_GIL_OPERATIONS = (0x80, 0x89)
# FUTEX_WAIT and FUTEX_WAIT_BITSET, private and without the wall clock: pthread_cond_timedwait by the monotonic clock.
_NATIVE_LOCKS = (
    ("lock_PyThread_acquire_lock", Aim.LOCK),
    ("rlock_acquire", Aim.LOCK),
    ("_queue_SimpleQueue_get", Aim.QUEUE),
    ("_multiprocessing_SemLock", Aim.SHARED_LOCK),
)
NATIVE_WORDS = "waits in native code for another thread (a condition, a semaphore, a barrier or a lock)"
_FUTEX_WORDS = {
    Aim.LOCK: "waits for a lock",
    Aim.SHARED_LOCK: "waits for a lock that several processes share",
    Aim.MUTEX: "waits for a mutex of native code",
    Aim.OPENMP: "waits for the other threads of its OpenMP team",
    Aim.QUEUE: "waits for an item of a queue",
    Aim.IDLE: "waits in native code",
    Aim.UNKNOWN: NATIVE_WORDS,
}
_OPENMP = re.compile(r"/lib(?:gomp|iomp5|omp)\b[^/]*\.so")
_ACQUIRES = ("acquire", "__enter__")
_ASKS = re.compile(r"^(?:async\s+)?with\s+(?P<items>.+?):|(?P<called>[\w.\[\]'\"]+)\.acquire\(")


def read_want(thread: ThreadEvidence, process: ProcessEvidence) -> Want:
    """Return what a thread wants."""
    wait = classify(thread, process)
    user = find_user_frame(thread.frames)
    frame = user[1] if user else None
    loop = find_loop(thread)
    simple = (
        (thread.state in ("Z", "X") or has_ended(process), Aim.ENDED, "has ended"),
        (thread.state in ("T", "t"), Aim.STOPPED, "is stopped"),
        (
            loop is Loop.MONITOR or (thread.name in IDLE_THREADS + DEVICE_THREADS and not thread.frames),
            Aim.IDLE,
            "looks after something by the clock",
        ),
        (
            wait.kind is Class.INTERPRETER or _waits_for_interpreter(thread, process),
            Aim.GIL,
            "waits for the interpreter lock",
        ),
    )
    for is_so, aim, words in simple:
        if is_so:
            return Want(aim, words, frame=frame)
    address = thread.syscall_args[0] if thread.call == "futex" and thread.syscall_args else None
    is_timed = wait.kind is Class.TIMED
    found = _find_place(thread.frames)
    # Whoever writes has something to say: a feeder or worker that does is no idle one.
    is_awake = wait.kind is Class.RUNNING and not is_looking(thread.frames)
    if found is not None and not is_awake and wait.kind is not Class.LOCK and not wait.is_write:
        aim, name, words = found
        if aim is Aim.IDLE and is_sleep(thread.call, thread.syscall_args):  # its task is a sleep, straight from C
            return Want(Aim.TIMED, wait.why, frame=frame)
        if aim is Aim.IDLE and name.endswith("serve_client") and wait.kind is Class.MEMORY:  # a manager at work for a client
            served = _find_place(thread.frames[: next(at for at, one in enumerate(thread.frames) if one.function == name)])
            if served is None:
                return _read_call(thread, wait.kind, frame, address, wait.why)
            aim, name, words = served
        is_poll = is_timed and aim in (Aim.EVENT, Aim.QUEUE, Aim.CHANNEL, Aim.FUTURE, Aim.THREAD, Aim.CHILD) and loop is None
        return Want(Aim.TIMED if is_poll else aim, words, name, frame, address=address, asked=aim if is_poll else None)
    joined = find_joined(thread, process)
    if joined is not None:
        return Want(Aim.THREAD, f"waits for thread {joined.name} to end", frame=frame, tid=joined.tid)
    return _read_call(thread, wait.kind, frame, address, wait.why)


def _waits_for_interpreter(thread: ThreadEvidence, process: ProcessEvidence) -> bool:
    """Whether a thread asks for the interpreter lock: its native frames say so, or it waits as for that while a sleeper has it.

    The wait is a private futex with a timeout of 5 ms, which alone looks like any other wait by the clock.
    """
    if thread.call != "futex" or thread.has_gil:
        return False
    if any(frame.function in _GIL_FUNCTIONS for frame in _innermost_natives(thread.frames)[:6]):
        return True
    is_short = len(thread.syscall_args) > 3 and thread.syscall_args[1] in _GIL_OPERATIONS and thread.syscall_args[3] != 0
    natives = _innermost_natives(thread.frames)
    # Python's own locks wait in sem_clockwait; only the interpreter lock is a condition variable right below the interpreter.
    is_condition = any(
        inner.function == "pthread_cond_timedwait" and "python" in outer.file for inner, outer in itertools.pairwise(natives)
    )
    sleepers = [other for other in process.threads if other.has_gil and other is not thread and other.state in ("S", "D")]
    return bool(is_short and sleepers and thread.frames and (is_condition or not natives))


def _read_call(thread: ThreadEvidence, kind: Class, frame: Frame | None, address: int | None, why: str) -> Want:
    """Return what a thread wants by its system call, where no known function says it."""
    if kind is Class.MEMORY:
        return _read_futex(thread, frame, address)
    if thread.wait_channel == _FIFO_CHANNEL:
        return Want(Aim.EVENT, f"waits until somebody opens the other end: {why}", frame=frame)
    aims = {
        Class.CHILD: (Aim.CHILD, why),
        Class.LOCK: (Aim.FILE_LOCK, why),
        Class.CHANNEL: (Aim.CHANNEL, why),
        Class.TIMED: (Aim.TIMED, why),
        Class.RUNNING: (Aim.RUNNING, "runs"),
        Class.OUTSIDE: (Aim.SIGNAL if "waits for a signal" in why else Aim.OUTSIDE, why),
    }
    aim, words = aims.get(kind, (Aim.UNKNOWN, why))
    return Want(aim, words, frame=frame)


def _read_futex(thread: ThreadEvidence, frame: Frame | None, address: int | None) -> Want:
    natives = _innermost_natives(thread.frames)
    name, file = read_lock_name(thread)
    args = (*thread.syscall_args, 0, 0, 0)
    aim = next((aim for symbol, aim in _NATIVE_LOCKS for native in natives if symbol in native.function), None)
    if any(_OPENMP.search(native.file) for native in natives[:4]):
        aim = Aim.OPENMP
    elif args[1] & _FUTEX_COMMAND == 0 and args[2] & 0xFFFFFFFF == _CONTENDED:
        aim = Aim.MUTEX
    elif aim is None and name:  # no symbols, as in a stripped interpreter: the source says it
        aim = Aim.LOCK
    elif aim is None:
        aim = Aim.IDLE if not thread.frames and not thread.is_main else Aim.UNKNOWN
    words = f"waits for the lock '{name}'" if aim is Aim.LOCK and name else _FUTEX_WORDS[aim]
    return Want(aim, words, name if aim is Aim.LOCK else "", frame, file if aim is Aim.LOCK else "", address)


def read_lock_name(thread: ThreadEvidence) -> tuple[str, str]:
    """Return the expression of the lock that a thread asks for, and the file it stands in; empty where the source does not say."""
    lines = {line.depth: line for line in thread.lines}
    own = list(own_frames(thread.frames))
    # A lock with a method of its own, as of logging's handlers, is named by whoever calls that.
    callers = [depth for depth, frame in own if plain_name(frame.function) not in _ACQUIRES][:1]
    for depth in (*callers, *(depth for depth, _ in own[:1])):
        match = _ASKS.search(lines[depth].text) if depth in lines else None
        if match is not None:
            items = match["items"]
            name = match["called"] if items is None else items.split(" as ")[0].split(",")[-1].strip()
            return name, thread.frames[depth].file
    return "", ""


def list_held(thread: ThreadEvidence) -> list[tuple[str, str, SourceLine]]:
    """Return what a thread holds as its source says: file, expression and line of each lock, innermost first.

    What it asks for at the innermost line is not held; neither is the condition whose ``wait`` it is in, which lets go of it.
    """
    own = dict(own_frames(thread.frames))
    waiting = {
        match[1]
        for line in thread.lines
        if (match := re.search(r"([\w.\[\]'\"]+)\.wait(?:_for)?\(", line.text)) and line.depth in own
    }
    return [
        (own[line.depth].file, name, line)
        for line in thread.lines
        if line.depth in own
        for name in line.holds
        if name not in waiting
    ]


def is_fork_of(process: ProcessEvidence, parent: ProcessEvidence | None) -> bool:
    """Whether a process was forked from its parent without an exec: it runs the same command and kept its parent's memory."""
    main = process.main_thread
    if main is not None and is_forked(main.frames):
        return True
    return (
        parent is not None
        and process.command is not None
        and process.command == parent.command
        and process.executable == parent.executable
        and process.python_version is not None
    )


def _innermost_natives(frames: Sequence[Frame]) -> list[Frame]:
    """Return the native frames inside of the innermost Python frame."""
    found = []
    for frame in frames:
        if not frame.is_native:
            break
        found.append(frame)
    return found


def _find_place(frames: Sequence[Frame]) -> tuple[Aim, str, str] | None:
    """Return the outermost known function among the innermost frames that only wait."""
    found = None
    inner = ""
    for _, frame in own_frames(frames):
        if any(is_place(frame, *task) for task in TASKS):
            break
        place = next((place for place in FUNCTIONS if any(is_place(frame, place[0], name) for name in place[1])), None)
        if place is not None:
            found = Aim(place[2]), frame.function, place[3]
        elif not any(part in frame.file for part in BETWEEN) and not is_proxy(frame, inner):
            break
        inner = frame.file
    return found
