"""What the loop tells the service manager on each of its rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unsloth_watch.supervise.phase import Phase
from unsloth_watch.tell.service import ServiceManager

if TYPE_CHECKING:
    from unsloth_watch.supervise.run import Run

_EXTENSION_S = 15.0
"""Seconds from now that are asked for at a time, while the job was seen to get further within as many."""
_EXTEND_EVERY_S = 2.0
ENDING_S = 60.0
"""Seconds that the end may take once the command is dead: 5 to deliver output, 30 for reports, 11 for the guardian."""


class Attendance:
    """Feeds the watchdog, shows the status, and asks for time while a job that was told to end still saves.

    Args:
        manager: The way to it.
    """

    def __init__(self, manager: ServiceManager) -> None:
        self._manager = manager
        self._extended_at = float("-inf")
        self._asked_at: float | None = None

    def attend(self, run: Run, now: float) -> None:
        """Tell what is due; called by the loop on every round and by nobody else.

        Args:
            run: The run.
            now: Monotonic seconds.
        """
        self._manager.tick(now)
        if self._manager.wants_status(now):
            self._show_status(run, now)
        if run.interrupts.is_ending and self._asked_at is None:
            self._asked_at = now
        if now - self._extended_at >= _EXTEND_EVERY_S and self._is_worth_waiting(run, now):
            self._extended_at = now
            self._manager.extend(_EXTENSION_S)

    def _show_status(self, run: Run, now: float) -> None:
        try:
            from unsloth_watch.supervise.now import read_now  # noqa: PLC0415 - only for a service
            from unsloth_watch.tell.nowline import describe_now  # noqa: PLC0415

            line = str(run.chronicle.redactor.value(describe_now(read_now(run, now))))
        except Exception as error:  # a status line is a courtesy: it says itself what is wrong (no descriptor left for an import)
            line = f"no status: {type(error).__name__}: {error}"
        self._manager.status(line, now)

    def _is_worth_waiting(self, run: Run, now: float) -> bool:
        """Whether a job that was told to end has got further since, or something is being done that has a limit of its own.

        One that merely computes or is silent gets what ``TimeoutStopSec`` allows and no more: a loop that spins would else hold
        the stop up for the whole busy timeout.
        """
        if self._asked_at is None:
            return False
        if run.phase in (Phase.CAPTURING, Phase.REPAIRING, Phase.TERMINATING):
            return True
        moved_at = run.watch.moved_at if run.watch is not None else None
        return moved_at is not None and moved_at > self._asked_at and now - moved_at < _EXTENSION_S
