"""A meter: adds up a flow over a sliding window and says when enough has come together to count."""

from __future__ import annotations

import msgspec


class Meter(msgspec.Struct, frozen=True):
    """Amounts in the window, oldest first, as (seconds, amount)."""

    entries: tuple[tuple[float, float], ...] = ()

    def add(self, at: float, amount: float, *, window_s: float, quota: float) -> tuple[Meter, float]:
        """Add ``amount`` at ``at``.

        Returns:
            The meter after it, and the sum that counted: 0 while the quota is not reached; when it is, the whole sum, and the
            meter starts over.
        """
        kept = tuple(entry for entry in self.entries if entry[0] > at - window_s)
        if amount > 0:
            kept = (*kept, (at, amount))
        total = sum(entry[1] for entry in kept)
        if total >= quota:
            return Meter(), total
        return Meter(kept), 0.0
