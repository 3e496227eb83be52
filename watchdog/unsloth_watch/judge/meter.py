"""A meter: a leaking bucket that says when a flow has been strong enough for long enough to count.

A sum over a sliding window would do for a steady flow, but either it starts over when it counts (then a little more flow early can
make it count earlier for the last time, and bring a hang nearer), or it goes on counting the same burst for the whole window.
"""

from __future__ import annotations

import msgspec


class Meter(msgspec.Struct, frozen=True):
    """The bucket.

    Attributes:
        level: What is in it.
        at: When that was, effective seconds; None before the first.
        gathered: What came since it last counted.
    """

    level: float = 0.0
    at: float | None = None
    gathered: float = 0.0

    def add(self, at: float, amount: float, *, leak_per_s: float, quota: float) -> tuple[Meter, float]:
        """Add ``amount`` at ``at``.

        Args:
            at: Now, effective seconds.
            amount: What came since the last call.
            leak_per_s: Flow that never counts, however long it lasts.
            quota: What must come together beyond the leak.

        Returns:
            The meter after it, and what came since it last counted; 0 while it does not count.
        """
        leaked = leak_per_s * (at - self.at) if self.at is not None else 0.0
        level = max(0.0, self.level - leaked) + amount
        gathered = self.gathered + amount
        if amount > 0 and level >= quota:
            return Meter(quota, at), gathered
        return Meter(level, at, gathered), 0.0

    def rest(self, at: float) -> Meter:
        """Return the meter after time in which nothing could be seen: nothing leaks away, for it may have come meanwhile.

        Args:
            at: Now, effective seconds.
        """
        return self if self.at is None else msgspec.structs.replace(self, at=at)
