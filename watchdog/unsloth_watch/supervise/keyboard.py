"""Keys that mean something to us although the command's terminal handles them: Ctrl-C again and again, and Ctrl-Z."""

from __future__ import annotations

from unsloth_watch.act.terminal import Terminal

ASKED_S = 10.0
"""Seconds after a Ctrl-C in which the end of the command counts as asked for."""
URGENT_S = 3.0
"""Seconds in which ``TERMINATE_AT`` presses mean: end it. Somebody in a debugger presses once, and again much later."""
TERMINATE_AT = 3
KILL_AT = 5


class Keyboard:
    """Counts key presses of one attempt's terminal.

    Args:
        terminal: The command's terminal.
    """

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._seen = 0
        self._suspends = 0
        self._presses: list[float] = []

    def take(self, now: float) -> int:
        """Return how many Ctrl-C of the last seconds belong together, 0 where none is new.

        Args:
            now: Monotonic seconds.
        """
        new = self._terminal.interrupts - self._seen
        if not new:
            return 0
        self._seen += new
        self._presses = [*(press for press in self._presses if now - press <= URGENT_S), *([now] * new)]
        return len(self._presses)

    def is_asked(self, now: float) -> bool:
        """Whether a user has just asked for the end."""
        return bool(self._presses) and now - self._presses[-1] <= ASKED_S

    def take_suspend(self) -> bool:
        """Whether Ctrl-Z was pressed since the last call."""
        before, self._suspends = self._suspends, self._terminal.suspends
        return self._suspends > before
