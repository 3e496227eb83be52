"""All cards of the machine, whoever made them: one reader a vendor's way, each with its own thread, seen as one sense."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from unsloth_watch.model.sample import GpuSample
from unsloth_watch.sense.drm import Drm, has_render_node
from unsloth_watch.sense.floor import FloorBook
from unsloth_watch.sense.gpu import INTERVAL_S, GpuReader


class GpuSense(Protocol):
    """What the sampler asks."""

    @property
    def why(self) -> str | None:
        """Why the newest ``latest`` was None."""
        ...

    def watch(self, pids: frozenset[int]) -> None:
        """Say which processes of the job may use a GPU."""
        ...

    def latest(self, at: float, max_age_s: float) -> tuple[GpuSample, ...] | None:
        """Return the newest readings, at once; None where they are unknown."""
        ...

    def take_xids(self) -> tuple[tuple[int, str, int], ...]:
        """Return (index, UUID, Xid) of each fault since the last call."""
        ...

    def close(self) -> None:
        """Let the threads end."""
        ...


class Cards:
    """Several readers as one.

    Args:
        readers: The readers.
    """

    def __init__(self, readers: Sequence[GpuSense]) -> None:
        self._readers = tuple(readers)

    @property
    def why(self) -> str | None:
        """Why the newest ``latest`` was None."""
        return next((reader.why for reader in self._readers if reader.why is not None), None)

    def watch(self, pids: frozenset[int]) -> None:
        """Say which processes of the job may use a GPU."""
        for reader in self._readers:
            reader.watch(pids)

    def latest(self, at: float, max_age_s: float) -> tuple[GpuSample, ...] | None:
        """Return the newest readings of all cards; None where one vendor's are unknown, as the job may use that one."""
        found = [reader.latest(at, max_age_s) for reader in self._readers]
        return None if None in found else tuple(gpu for gpus in found for gpu in gpus or ())

    def take_xids(self) -> tuple[tuple[int, str, int], ...]:
        """Return (index, UUID, Xid) of each fault since the last call."""
        return tuple(fault for reader in self._readers for fault in reader.take_xids())

    def close(self) -> None:
        """Let the threads end."""
        for reader in self._readers:
            reader.close()


def open_cards(floors: FloorBook | None, interval_s: float = INTERVAL_S) -> Cards:
    """Return the sense over whatever cards there are; without any it costs a look at ``/dev`` a tick.

    Args:
        floors: What the cards show at rest.
        interval_s: Seconds between readings.
    """
    return Cards(
        (
            GpuReader(floors=floors, interval_s=interval_s),
            GpuReader(Drm, name="DRM", is_present=has_render_node, is_host=lambda: True, interval_s=interval_s),
        )
    )
