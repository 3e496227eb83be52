"""Threads at the price of ``_thread``, which is built in, where ``threading`` takes 3 ms to import: started, and woken."""

from __future__ import annotations

import _thread

from unsloth_watch.errors import WatchError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Doorbell:
    """A wake-up that is not lost: rung before the wait, the wait returns at once."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._lock.acquire()

    def ring(self) -> None:
        """Wake the waiter, or its next wait."""
        try:
            self._lock.release()
        except RuntimeError:  # rung already
            pass

    def wait(self, timeout_s: float = -1) -> bool:
        """Wait for the bell.

        Args:
            timeout_s: Longest wait; -1 for ever.

        Returns:
            Whether it rang.
        """
        return self._lock.acquire(timeout=timeout_s)


def start_thread(run: Callable[[], None]) -> None:
    """Start a thread that the relay cannot do without.

    Args:
        run: What it does.

    Raises:
        WatchError: There may be no more threads; without a reader the command would stop at a full pipe.
    """
    try:
        _thread.start_new_thread(run, ())
    except RuntimeError as error:
        msg = "no thread can be started: this user's or control group's limit of processes is used up (ulimit -u, pids.max)"
        raise WatchError(msg) from error
