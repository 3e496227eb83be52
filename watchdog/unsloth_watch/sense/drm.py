"""AMD's and Intel's cards, by what the kernel tells of each open DRM file, and of each card in /sys.

Source: the kernel's Documentation/gpu/drm-usage-stats.rst, and amdgpu's sysfs files. Only the job's own processes are asked: what
others do is nobody's evidence. Engine-busy time is utilisation: effort, never progress. The one traffic there is comes from
amdgpu's ``mem_busy_percent``, and counts while the card's memory is ours alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping

import msgspec

from unsloth_watch.sense.nvml import Device, DeviceReading

DRIVERS = frozenset({"amdgpu", "i915", "xe"})
"""Kernel drivers whose files tell engine times."""
STRANGERS_BYTES = 512 << 20
"""Memory in use beyond ours from which a card counts as shared: a desktop's compositor takes 100 to 400 MiB."""
_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_RESIDENT = ("drm-resident-", "drm-memory-")
"""Keys of memory, the newer first; ``drm-memory-`` is amdgpu's older name of the same."""
_HOST_REGIONS = ("system", "gtt", "cpu", "stolen-system")
"""Regions that are the machine's memory, not the card's."""


class Client(msgspec.Struct, frozen=True):
    """What one client of a card has used; several descriptors can be one client.

    Attributes:
        driver: Kernel driver.
        bus: PCI address of the card; empty where the kernel does not tell.
        id: Number of the client, unique to the card; None for kernels before 5.19.
        busy_ns: Nanoseconds by engine.
        cycles: (busy, total) by engine, for drivers that count cycles.
        memory_bytes: Memory of the card in use.
    """

    driver: str
    bus: str
    id: int | None = None
    busy_ns: Mapping[str, int] = {}
    cycles: Mapping[str, tuple[int, int]] = {}
    memory_bytes: int | None = None


def parse_fdinfo(text: str) -> Client | None:
    """Return the client that a ``/proc/PID/fdinfo/FD`` tells of, None for a file that is no DRM file of a driver we know."""
    values = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.startswith("drm-"):
            values[key] = value.strip()
    if values.get("drm-driver") not in DRIVERS:
        return None
    busy, cycles, capacities = {}, {}, {}
    for key, value in values.items():
        number = value.split()[0] if value else ""
        if not number.isdecimal():
            continue
        if key.startswith("drm-engine-capacity-"):
            capacities[key[20:]] = max(1, int(number))
        elif key.startswith("drm-engine-"):
            busy[key[11:]] = int(number)
        elif key.startswith("drm-cycles-"):
            total = values.get(f"drm-total-cycles-{key[11:]}", "")
            if total.isdecimal():
                cycles[key[11:]] = (int(number), int(total))
    number = values.get("drm-client-id", "")
    return Client(
        driver=values["drm-driver"],
        bus=values.get("drm-pdev", ""),
        id=int(number) if number.isdecimal() else None,
        busy_ns={engine: used // capacities.get(engine, 1) for engine, used in busy.items()},
        cycles={engine: (used // capacities.get(engine, 1), total) for engine, (used, total) in cycles.items()},
        memory_bytes=_sum_memory(values),
    )


def _sum_memory(values: Mapping[str, str]) -> int | None:
    """Return the bytes of the card's own memory, by the newest key that the driver has."""
    for prefix in _RESIDENT:
        found = [
            _parse_size(value)
            for key, value in values.items()
            if key.startswith(prefix) and not key[len(prefix) :].startswith(_HOST_REGIONS)
        ]
        known = [size for size in found if size is not None]
        if known:
            return sum(known)
    return None


def _parse_size(value: str) -> int | None:
    """Return bytes of ``123 KiB``; a number alone is bytes."""
    number, _, unit = value.partition(" ")
    factor = _UNITS.get(unit.strip())
    return int(number) * factor if number.isdecimal() and factor is not None else None


def has_render_node(root: str = "/sys/class/drm") -> bool:
    """Return whether there is a card of one of ``DRIVERS``."""
    return bool(_find_cards(root))


class Drm:
    """The cards behind the border in ``nvml``.

    Args:
        proc: Where processes are.
        root: Where the cards are.
        clock: Monotonic seconds.
    """

    def __init__(self, proc: str = "/proc", root: str = "/sys/class/drm", clock: Callable[[], float] = time.monotonic) -> None:
        self._proc = proc
        self._root = root
        self._clock = clock
        self._cards: tuple[tuple[Device, str], ...] = ()
        self._before: dict[str, tuple[float, dict[object, Client]]] = {}

    def open(self) -> tuple[Device, ...]:
        """Return the cards, by PCI address."""
        self._cards = tuple((Device(bus, index, driver), path) for index, (bus, driver, path) in enumerate(_find_cards(self._root)))
        return tuple(device for device, _ in self._cards)

    def read(self, place: int, pids: Collection[int], *, asks_slowly: bool, asks_owners: bool) -> DeviceReading:
        """Read one card; none of these questions is dear, so all are asked each time."""
        del asks_slowly, asks_owners
        device, path = self._cards[place]
        at, clients = self._clock(), self._find_clients(device.uuid, pids)
        before = self._before.get(device.uuid)
        self._before[device.uuid] = (at, clients)
        memory = _read_number(f"{path}/mem_info_vram_used")
        sizes = [client.memory_bytes for client in clients.values()]
        own = None if None in sizes else sum(size for size in sizes if size is not None)
        # ROCm's queues are fed past the kernel, which counts neither their time nor all of their memory.
        is_hidden = any(self._has_kfd(pid) for pid in pids)
        busy = None if before is None or is_hidden else _measure_busy(before[1], clients, at - before[0])
        whole = _read_number(f"{path}/gpu_busy_percent")
        return DeviceReading(
            # Intel tells nothing of the whole card: then ours is all that is known.
            utilization=whole if whole is not None else busy,
            memory_bytes=memory,
            dram=_read_number(f"{path}/mem_busy_percent"),
            processes=None if is_hidden or own is None else tuple((pid, own) for pid in sorted(pids)[:1]) if clients else (),
            process_utilization=None if busy is None else tuple((pid, busy) for pid in sorted(pids)[:1]),
            is_shared=None if memory is None or own is None else memory - own > STRANGERS_BYTES,
        )

    def close(self) -> None:
        """Nothing is held."""

    def _find_clients(self, bus: str, pids: Collection[int]) -> dict[object, Client]:
        """Return the job's clients of a card, each once however many descriptors it has."""
        found: dict[object, Client] = {}
        for pid in pids:
            for name in self._list(f"{pid}/fd"):
                if not self._link(f"{pid}/fd/{name}").startswith("/dev/dri/"):
                    continue
                try:
                    with open(f"{self._proc}/{pid}/fdinfo/{name}", encoding="utf-8", errors="replace") as file:
                        client = parse_fdinfo(file.read())
                except OSError:
                    continue  # closed meanwhile
                if client is not None and client.bus == bus:
                    found[client.id if client.id is not None else (pid, name)] = client
        return found

    def _has_kfd(self, pid: int) -> bool:
        return any(self._link(f"{pid}/fd/{name}") == "/dev/kfd" for name in self._list(f"{pid}/fd"))

    def _list(self, path: str) -> list[str]:
        try:
            return os.listdir(f"{self._proc}/{path}")
        except OSError:
            return []

    def _link(self, path: str) -> str:
        try:
            return os.readlink(f"{self._proc}/{path}")
        except OSError:
            return ""


def _measure_busy(before: Mapping[object, Client], now: Mapping[object, Client], seconds: float) -> float | None:
    """Return percent of time that the busiest engine worked for us; None where no time has passed."""
    if seconds <= 0:
        return None
    shares: dict[str, float] = {}
    for key, client in now.items():
        earlier = before.get(key)
        for engine, used in client.busy_ns.items():
            # A client that is new has worked since it came, which is since the last reading.
            gained = used - (earlier.busy_ns.get(engine, 0) if earlier is not None else 0)
            shares[engine] = shares.get(engine, 0.0) + max(0, gained) / (1e9 * seconds)
        for engine, (used, total) in client.cycles.items():
            used_before, total_before = earlier.cycles.get(engine, (0, 0)) if earlier is not None else (0, 0)
            if earlier is not None and total > total_before:
                shares[engine] = shares.get(engine, 0.0) + max(0, used - used_before) / (total - total_before)
    return min(100.0, 100.0 * max(shares.values(), default=0.0))


def _find_cards(root: str) -> list[tuple[str, str, str]]:
    """Return (PCI address, driver, folder in /sys) of each card of a driver that we know, in the order of their addresses."""
    found = {}
    try:
        names = os.listdir(root)
    except OSError:
        return []
    for name in names:
        if not name.startswith("renderD"):
            continue
        folder = os.path.realpath(f"{root}/{name}/device")
        driver = os.path.basename(os.path.realpath(f"{folder}/driver"))
        if driver in DRIVERS:
            found[os.path.basename(folder)] = (driver, folder)
    return [(bus, *found[bus]) for bus in sorted(found)]


def _read_number(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None
