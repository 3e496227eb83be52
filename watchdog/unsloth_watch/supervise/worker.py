"""Slow work beside the loop: one job at a time in a daemon thread, its end told through a descriptor that the loop selects on."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Task(Generic[T]):
    """A call that runs in its own daemon thread.

    Args:
        work: The call. What it raises is kept and raised again by ``result``.
        wake_fd: Written to when it ends.
    """

    def __init__(self, work: Callable[[], T], wake_fd: int) -> None:
        self._work = work
        self._wake_fd = wake_fd
        self._result: T
        self._error: BaseException | None = None
        self._done = threading.Event()
        try:
            threading.Thread(target=self._run, name="unsloth-watch task", daemon=True).start()
        except RuntimeError as error:  # the job has used up all processes of this user or control group: no fault of ours
            self._error = error
            self._done.set()

    def _run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:  # kept, and raised again where the result is asked for
            self._error = error
        self._done.set()
        try:
            os.write(self._wake_fd, b"\0")
        except OSError:  # the loop has ended, or its pipe is full of wake-ups already
            pass

    @property
    def is_done(self) -> bool:
        """Whether it has ended, either way."""
        return self._done.is_set()

    def wait(self, seconds: float) -> None:
        """Wait for its end, for so long at most. Never call it from the loop of a run that goes on."""
        self._done.wait(seconds)

    def result(self) -> T:
        """Return what the call returned.

        Raises:
            BaseException: What the call raised.
        """
        if self._error is not None:
            raise self._error
        return self._result
