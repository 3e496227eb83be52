"""What the loop sleeps on: signals and ends of tasks through one pipe, the guardian, the command's reports, the control socket."""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from collections.abc import Callable

from unsloth_watch.supervise import clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unsloth_watch.act.launch import Guardian


_BLIND_S = 0.2
"""Seconds to sleep where nothing can be polled."""


class Poller:
    """Sleeps until there is something to do.

    Args:
        signals_fd: Readable when a signal has come; the other end of the process's wake-up descriptor.

    Attributes:
        registry: Where others register descriptors that shall end the sleep too.
        wake_fd: Whatever is written to it ends the sleep.
    """

    def __init__(self, signals_fd: int) -> None:
        self.registry = select.poll()
        self.registry.register(signals_fd, select.POLLIN)
        self.wake_fd = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(self.wake_fd, warn_on_full_buffer=False)
        self._guardian_fd: int | None = None
        self._taken: dict[int, Callable[[], None]] = {}

    def take(self, descriptor: int, read: Callable[[], None]) -> None:
        """Have what comes at a descriptor read during the sleep, which goes on: a turn of the loop costs ten times as much.

        Args:
            descriptor: What to poll.
            read: Reads what is there, bounded and without blocking.
        """
        self._taken[descriptor] = read
        self.registry.register(descriptor, select.POLLIN)

    def sleep(self, guardian: Guardian, until: float) -> None:
        """Sleep until there is news, or until something is due.

        Args:
            guardian: The guardian of the attempt that runs; a lost one has no more news.
            until: Monotonic seconds.
        """
        guardian_fd = guardian.fileno() if not guardian.is_lost else None
        if guardian_fd != self._guardian_fd:
            if self._guardian_fd is not None:
                self.registry.unregister(self._guardian_fd)
            if guardian_fd is not None:
                self.registry.register(guardian_fd, select.POLLIN)
            self._guardian_fd = guardian_fd
        while self._read_on(until):
            pass

    def _read_on(self, until: float) -> bool:
        """Sleep, and read what is to be read meanwhile; False when that is not all there is to do."""
        left_s = max(0.0, until - clock.monotonic())
        try:
            ready = self.registry.poll(1000 * left_s)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # Somebody has lowered our limit of open files below what is polled (poll(2)): look at everything soon instead.
            time.sleep(min(left_s, _BLIND_S))
            for read in self._taken.values():
                read()
            return False
        reads = [self._taken[descriptor] for descriptor, events in ready if descriptor in self._taken and events == select.POLLIN]
        for read in reads:
            read()
        # Who sends without a pause must not hold up what is due.
        return len(reads) == len(ready) > 0 and clock.monotonic() < until

    def wake(self) -> None:
        """End the sleep, or the next one; may be called from any thread."""
        try:
            os.write(self.wake_fd, b"\0")
        except OSError:  # full of wake-ups already
            pass
