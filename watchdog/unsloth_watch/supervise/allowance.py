"""CPU that surveys may use while nobody doubts the job: a quick succession at first, then a trickle.

A survey of 20 processes takes 80 to 300 ms of CPU. A job that rests by nature (a server, a notebook, a queue) is surveyed over and
over with the same answer; every half minute that was 0.3 to 0.9 % of a core, more than all else that the supervisor does.
"""

from __future__ import annotations

SHARE = 0.001
"""Share of a core that surveys may use in the long run."""
SAVED_S = 2.0
"""CPU seconds that can be saved up: seven surveys of 20 processes with 10 threads each, where a proof takes two or three."""
VAIN_SHARE = 0.02
"""Share of a core that large surveys may use which came to nothing for lack of time, whoever wants them."""
MOST_REST = 1 / 6
"""Longest rest, in stall timeouts: a job in doubt may be fed through a pipe, which surveys alone show, and several must fit in."""
LARGE_S = 1.0
"""CPU seconds from which a survey is a large one: 20 processes never take as much."""


class Allowance:
    """CPU seconds that may be used, filled by time and emptied by use.

    Args:
        now: Monotonic seconds; full from then.
    """

    def __init__(self, now: float) -> None:
        self._left_s = SAVED_S
        self._at = now
        self._resumes_at = now

    def has_left(self, now: float) -> bool:
        """Whether anything may be used at this moment.

        Args:
            now: Monotonic seconds.
        """
        self._left_s = min(SAVED_S, self._left_s + SHARE * (now - self._at))
        self._at = now
        return self._left_s > 0

    def is_resting(self, now: float) -> bool:
        """Whether nobody is surveyed at this moment, be the job in doubt: the last one took much and could not be finished.

        Args:
            now: Monotonic seconds.
        """
        return now < self._resumes_at

    def take(self, used_s: float) -> None:
        """Pay for what was used.

        Args:
            used_s: CPU seconds; may be more than what is left, and is then waited for.
        """
        self._left_s -= used_s

    def rest_after(self, used_s: float, stall_s: float, now: float) -> None:
        """Let time pass after a survey that could not be finished: the next one would do no better, and proves as little.

        Args:
            used_s: CPU seconds that it took, helpers included.
            stall_s: The stall timeout.
            now: Monotonic seconds.
        """
        if used_s >= LARGE_S:
            self._resumes_at = now + min(used_s / VAIN_SHARE, stall_s * MOST_REST)
