"""Deadlines for calls that may never come back.

Reads of ``cmdline``, ``environ``, ``maps`` and ``mem`` take the target's mmap_lock, ``syscall`` its exec lock, and a file probe
takes whatever its file system takes: each of them can block for as long as the job hangs. They run in a daemon thread here that is
abandoned when it is late; the kernel ends it together with the supervisor.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

MAX_ABANDONED = 64
"""Threads that may be stuck at once. Each costs about 100 kB; 64 stuck reads say all that a hung file system can say."""


class DeadlineError(Exception):
    """A call did not come back in time; it may still be running in its abandoned thread."""


class Deadline:
    """A point in monotonic time that several steps share.

    Args:
        seconds: Seconds from now.
    """

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def left(self, at_most: float = float("inf")) -> float:
        """Return the seconds that are left, never below 0 and never above ``at_most``."""
        return max(0.0, min(at_most, self._at - time.monotonic()))

    @property
    def is_over(self) -> bool:
        """Whether the time has passed."""
        return self.left() <= 0


_lock = threading.Lock()
_abandoned: list[threading.Thread] = []


def within(seconds: float, function: Callable[..., T], *args: object) -> T:
    """Return ``function(*args)``, or give it up.

    Args:
        seconds: Seconds to wait for it.
        function: Runs in a daemon thread of its own; about 60 µs more than a plain call.
        *args: Its arguments.

    Raises:
        DeadlineError: It is late, or too many earlier calls are stuck to start another.
        BaseException: Whatever the function raised.
    """
    results: list[T] = []
    faults: list[BaseException] = []

    def call() -> None:
        try:
            results.append(function(*args))
        except BaseException as error:  # carried over to the caller, whatever it is
            faults.append(error)

    thread = _start(call, f"within-{getattr(function, '__name__', 'call')}")
    thread.join(seconds)
    if faults:
        raise faults[0]
    if results:
        return results[0]
    raise _abandon(thread, seconds)


def _start(work: Callable[[], None], name: str) -> threading.Thread:
    """Return a daemon thread that was started.

    Raises:
        DeadlineError: Too many earlier ones are stuck, or the system gives us none.
    """
    with _lock:
        _abandoned[:] = [thread for thread in _abandoned if thread.is_alive()]
        if len(_abandoned) >= MAX_ABANDONED:
            raise DeadlineError(f"{len(_abandoned)} earlier reads are still stuck")
    thread = threading.Thread(target=work, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # a fork bomb has used up the limit of processes, and threads count among them
        raise DeadlineError(f"no thread can be started ({error})") from error
    return thread


def _abandon(thread: threading.Thread, seconds: float) -> DeadlineError:
    """Leave a late thread behind; return what to say of its call."""
    with _lock:
        _abandoned.append(thread)
    return DeadlineError(f"no answer within {seconds:.3g} s")


def within_each(seconds: float, functions: Sequence[Callable[[], object]]) -> list[Exception | None]:
    """Call functions one after the other, in one thread as long as none is late; what they find they keep themselves.

    Args:
        seconds: Seconds for each; one that is late is given up, and the next go on in another thread.
        functions: What to call.

    Returns:
        For each the exception that it raised, a `DeadlineError` where it was late or could not be begun, or None.
    """
    faults: list[Exception | None] = []
    while len(faults) < len(functions):
        faults += _work_through(seconds, functions[len(faults) :])
    return faults


def _work_through(seconds: float, functions: Sequence[Callable[[], object]]) -> list[Exception | None]:
    """Return the faults of the functions up to the first that is late."""
    faults: list[Exception | None] = []
    began = [time.monotonic()]
    given_up = threading.Event()

    def work() -> None:
        for function in functions:
            began[0] = time.monotonic()
            fault = None
            try:
                function()
            except Exception as error:  # carried over to the caller, whatever it is
                fault = error
            if given_up.is_set():
                return
            faults.append(fault)

    try:
        thread = _start(work, "within-each")
    except DeadlineError as error:
        return [error] * len(functions)
    while thread.is_alive():
        left = began[0] + seconds - time.monotonic()
        if left <= 0:
            given_up.set()
            return [*faults[: len(functions) - 1], _abandon(thread, seconds)]
        thread.join(left)
    return faults
