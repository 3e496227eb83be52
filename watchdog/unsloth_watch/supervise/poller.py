"""What the loop sleeps on: signals and ends of tasks through one pipe, the guardian, the command's reports, the control socket."""

from __future__ import annotations

import errno
import os
import select
import signal
import time

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
        left_s = max(0.0, until - clock.monotonic())
        try:
            self.registry.poll(1000 * left_s)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # Somebody has lowered our limit of open files below what is polled (poll(2)): look at everything soon instead.
            time.sleep(min(left_s, _BLIND_S))

    def wake(self) -> None:
        """End the sleep, or the next one; may be called from any thread."""
        try:
            os.write(self.wake_fd, b"\0")
        except OSError:  # full of wake-ups already
            pass
