"""Floors: what a card of this host shows while nothing of ours uses it, kept between runs.

Traffic is progress only above it. A rack whose monitor reads every counter, or a desktop whose screen is scanned out of the same
memory, has a floor of its own, and no fixed threshold fits them all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import msgspec

from unsloth_watch.sense.nvml import DeviceReading

LEAST_READINGS = 3
"""Readings at rest before they count: a first one may still show the end of somebody else's work."""
MOST_READINGS = 60
"""Readings at rest of one run; what they show does not change later."""
LIFETIME_S = 30 * 86400.0
"""Age from which a floor is no longer believed: drivers, monitors and screens change."""
SAVE_EVERY = 10
"""Readings between two writings of the file."""


class Floor(msgspec.Struct, frozen=True):
    """Medians of what was seen at rest: one burst of a neighbour must not hide our own traffic for a month.

    Attributes:
        measured_at: Unix seconds of the newest reading.
        readings: How many there were.
        dram: Percent of memory bandwidth; None where the device does not tell.
        tensor: Percent of the tensor cores' peak.
        pcie: Bytes a second, both directions together.
    """

    measured_at: float
    readings: int = 0
    dram: float | None = None
    tensor: float | None = None
    pcie: float | None = None


class FloorBook:
    """Floors by UUID.

    Args:
        path: File that keeps them; None keeps them for this run only.
        wall: Unix seconds.

    Attributes:
        trouble: Why the file could not be read or written, None if it could.
    """

    def __init__(self, path: str | None, wall: Callable[[], float]) -> None:
        self.trouble: str | None = None
        self._path = path
        self._wall = wall
        self._old = self._load()
        self._new: dict[str, Floor] = {}
        self._seen: dict[str, list[tuple[float | None, float | None, float | None]]] = {}

    def find(self, uuid: str) -> tuple[Floor, float] | None:
        """Return a device's floor and its age in seconds; None while too little is known."""
        new, old = self._new.get(uuid), self._old.get(uuid)
        floor = new if new is not None and new.readings >= LEAST_READINGS else old
        if floor is None:
            return None
        age_s = max(0.0, self._wall() - floor.measured_at)
        return (floor, age_s) if age_s < LIFETIME_S else None

    def learn(self, uuid: str, reading: DeviceReading) -> None:
        """Take in a reading of a device at rest; what this run sees replaces what an earlier one did."""
        seen = self._seen.setdefault(uuid, [])
        pcie = None if reading.pcie_rx is None or reading.pcie_tx is None else reading.pcie_rx + reading.pcie_tx
        if len(seen) >= MOST_READINGS or (pcie is None and reading.dram is None):
            return
        seen.append((reading.dram, reading.tensor, pcie))
        dram, tensor, traffic = (_median([row[column] for row in seen]) for column in range(3))
        self._new[uuid] = after = Floor(self._wall(), len(seen), dram, tensor, traffic)
        if after.readings == LEAST_READINGS or after.readings % SAVE_EVERY == 0:
            self._save()

    def _load(self) -> Mapping[str, Floor]:
        if self._path is None:
            return {}
        try:
            with open(self._path, "rb") as file:
                return msgspec.json.decode(file.read(), type=dict[str, Floor])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as error:
            self.trouble = f"{self._path}: {error}"
            return {}

    def _save(self) -> None:
        """Write the file anew; another run that does the same at this moment loses nothing that it could not measure again."""
        if self._path is None:
            return
        known = {uuid: floor for uuid, floor in self._new.items() if floor.readings >= LEAST_READINGS}
        temporary = f"{self._path}.{os.getpid()}"
        try:
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            with open(temporary, "wb") as file:
                file.write(msgspec.json.encode({**self._load(), **known}) + b"\n")
            os.replace(temporary, self._path)
        except OSError as error:
            self.trouble = f"{self._path}: {error}"


def _median(values: list[float | None]) -> float | None:
    known = sorted(value for value in values if value is not None)
    return known[len(known) // 2] if known else None
