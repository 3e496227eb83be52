"""What the GPUs do, read in a thread of its own: a sick driver can hold one NVML call for 45 seconds, and the loop never waits."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable

import msgspec

from unsloth_watch.model.sample import GpuSample
from unsloth_watch.sense.floor import FloorBook
from unsloth_watch.sense.nvidia import Pynvml
from unsloth_watch.sense.nvml import NEXT_STEPS, Device, DeviceReading, Fault, Gpus, NvmlError
from unsloth_watch.sense.visible import read_visible

SLOWLY_EVERY = 10
"""Ticks between the questions that cost 4 to 20 ms: energy, memory errors, and PCIe traffic of cards without GPM."""
INTERVAL_S = 2.0
"""Seconds between readings. One costs 2 ms of CPU on an H100; rates are averages since the one before, so none is missed."""
OWNERS_EVERY = 3
"""Ticks between the questions who uses a card: they cost 2 ms, more than all others together. Where the memory in use has changed,
the border asks at once, so that nobody's memory is taken for ours, or ours for nobody's, until the next turn."""
RETRY_S = 30.0
"""Seconds before NVML is opened anew after a fault: a driver that is being replaced comes back, a lost card does not."""
MOST_XIDS = 16
"""Faults kept until they are taken."""
_INITIAL_PID_NAMESPACE = "pid:[4026531836]"
_KEPT_FIELDS = ("energy_j", "ecc_uncorrected", "is_remap_pending", "processes", "process_utilization", "is_shared")
"""What is not asked every time, and stays as it was answered last. Traffic is not among it: old traffic is no news."""


def has_device_node() -> bool:
    """Return whether this machine has an NVIDIA driver's node (``/dev/dxg`` on WSL2). It may appear once CUDA is first used."""
    return os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/dxg")


def has_host_pids() -> bool:
    """Return whether our PIDs are the host's: NVML tells the host's, and in a container they match nobody."""
    try:
        return os.readlink("/proc/self/ns/pid") == _INITIAL_PID_NAMESPACE
    except OSError:
        return False


class GpuReader:
    """Publishes the newest reading; ``latest`` never waits.

    Args:
        gpus: Makes the library's border; called in the thread.
        floors: What the devices show at rest; None learns it for this run only.
        name: What a fault is said to come from.
        is_present: Whether there is any GPU; asked until it says yes.
        is_host: Whether the PIDs that NVML tells are ours.
        interval_s: Seconds between readings.
        retry_s: Seconds between a fault and the next try.
        clock: Monotonic seconds, the same clock as the sampler's ``at``.
    """

    def __init__(
        self,
        gpus: Callable[[], Gpus] = Pynvml,
        *,
        floors: FloorBook | None = None,
        name: str = "NVML",
        is_present: Callable[[], bool] = has_device_node,
        is_host: Callable[[], bool] = has_host_pids,
        interval_s: float = INTERVAL_S,
        retry_s: float = RETRY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gpus = gpus
        self._floors = floors if floors is not None else FloorBook(None, time.time)
        self._name = name
        self._is_present = is_present
        self._is_host = is_host
        self._interval_s = interval_s
        self._retry_s = retry_s
        self._clock = clock
        self._pids: frozenset[int] = frozenset()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._started_at = 0.0
        # Replaced as a whole by the thread and read as a whole by the loop: no lock that a blocked call could hold.
        self._published: tuple[float, tuple[GpuSample, ...]] | None = None
        self._fault: NvmlError | None = None
        self._why: str | None = None
        self._xids: deque[tuple[int, str, int]] = deque(maxlen=MOST_XIDS)

    @property
    def why(self) -> str | None:
        """Why the newest ``latest`` was None; None where it was not, or where the first reading is still on its way."""
        return self._why

    @property
    def fault(self) -> Fault | None:
        """Class of the fault that NVML reported last, None while it works."""
        fault = self._fault
        return fault.fault if fault is not None else None

    def watch(self, pids: frozenset[int]) -> None:
        """Say which processes of the job may use a GPU, from the next reading on."""
        self._pids = pids

    def latest(self, at: float, max_age_s: float) -> tuple[GpuSample, ...] | None:
        """Return the newest reading, at once.

        Args:
            at: Now, monotonic seconds.
            max_age_s: Older readings do not count: the driver is blocked.

        Returns:
            A sample a device; empty without a GPU; None where it is unknown (``why`` says why).
        """
        self._why = None
        if self._thread is None:
            if not self._is_present():
                return ()
            self._start(at)
        fault, published = self._fault, self._published
        if fault is not None:
            self._why = f"{self._name}: {fault} ({fault.fault.value}); {NEXT_STEPS[fault.fault]}"
            return None
        answered_at = published[0] if published is not None else self._started_at
        if at - answered_at > max_age_s:
            # Without the seconds: the same words are told once.
            self._why = (
                f"the GPU driver is blocked: no answer for more than {max_age_s:.0f} s; an Xid in the kernel log may say why"
            )
            return None
        return published[1] if published is not None else None

    def take_xids(self) -> tuple[tuple[int, str, int], ...]:
        """Return (index, UUID, Xid) of each fault that was reported since the last call, also where the device is lost by now."""
        found = []
        while self._xids:
            found.append(self._xids.popleft())
        return tuple(found)

    def close(self) -> None:
        """Tell the thread to end; it is not waited for, as it may be blocked in the driver."""
        self._stop.set()

    def _start(self, at: float) -> None:
        self._started_at = at
        thread = threading.Thread(target=self._run, name="unsloth-watch-gpu", daemon=True)
        thread.start()  # refused where the job has used up all processes of this user: tried again at the next tick
        self._thread = thread

    def _run(self) -> None:
        """Read until told to stop; after a fault open anew, later."""
        while not self._stop.is_set():
            gpus = self._gpus()
            try:
                self._read_on(gpus)
            except NvmlError as error:
                self._fault = error
            except Exception as error:
                # A thread that dies in silence would read as a blocked driver: whatever it was, it is said.
                self._fault = NvmlError(Fault.OTHER, f"{type(error).__name__}: {error}")
            finally:
                gpus.close()
            self._stop.wait(self._retry_s)

    def _read_on(self, gpus: Gpus) -> None:
        """Publish a reading every interval.

        Raises:
            NvmlError: The devices do not answer any more.
        """
        devices = gpus.open()
        is_host = self._is_host()
        kept: list[DeviceReading] = [DeviceReading()] * len(devices)
        visible = frozenset(range(len(devices)))
        seen: frozenset[int] = frozenset()
        tick = 0
        while not self._stop.is_set():
            asks_slowly, asks_owners, pids = tick % SLOWLY_EVERY == 0, tick % OWNERS_EVERY == 0, self._pids
            if pids != seen:
                visible, seen = read_visible(pids, devices), pids
            samples = []
            for place, device in enumerate(devices):
                reading = gpus.read(place, pids, asks_slowly=asks_slowly, asks_owners=asks_owners)
                kept[place] = reading = _fill(reading, kept[place])
                self._xids.extend((device.index, device.uuid, number) for number in reading.xids)
                if _is_at_rest(reading, pids, is_host=is_host):
                    self._floors.learn(device.uuid, reading)
                samples.append(self._sample(device, reading, pids, is_host=is_host, is_visible=place in visible))
            at = self._clock()
            self._published = (at, tuple(msgspec.structs.replace(sample, read_at=at) for sample in samples))
            self._fault = None
            tick += 1
            self._stop.wait(self._interval_s)

    def _sample(
        self, device: Device, reading: DeviceReading, pids: frozenset[int], *, is_host: bool, is_visible: bool
    ) -> GpuSample:
        """Return a device's sample with its floor, and with what belongs to the job."""
        own_memory, own_utilization, is_shared = _attribute(reading, pids, is_host=is_host)
        found = self._floors.find(device.uuid)
        floor, age_s = found if found is not None else (None, None)
        return GpuSample(
            index=device.index,
            uuid=device.uuid,
            utilization=reading.utilization,
            memory_bytes=reading.memory_bytes,
            power_w=reading.power_w,
            sm=reading.sm,
            tensor=reading.tensor,
            dram=reading.dram,
            pcie_rx=reading.pcie_rx,
            pcie_tx=reading.pcie_tx,
            own_memory_bytes=own_memory,
            own_utilization=own_utilization,
            is_shared=is_shared,
            is_visible=is_visible,
            clock_mhz=reading.clock_mhz,
            throttle=reading.throttle,
            temperature_c=reading.temperature_c,
            energy_j=reading.energy_j,
            ecc_uncorrected=reading.ecc_uncorrected,
            is_remap_pending=reading.is_remap_pending,
            floor_dram=floor.dram if floor is not None else None,
            floor_tensor=floor.tensor if floor is not None else None,
            floor_pcie=floor.pcie if floor is not None else None,
            floor_age_s=None if age_s is None else round(age_s),
        )


def _fill(reading: DeviceReading, before: DeviceReading) -> DeviceReading:
    """Return the reading with what was asked for earlier only."""
    return msgspec.structs.replace(
        reading, **{name: getattr(before, name) for name in _KEPT_FIELDS if getattr(reading, name) is None}
    )


def _is_at_rest(reading: DeviceReading, pids: frozenset[int], *, is_host: bool) -> bool:
    """Whether nothing of ours runs on a device, and nobody else works there; utilisation alone misses 10 % duty."""
    if reading.processes is None or reading.utilization is None or reading.utilization > 0:
        return False
    return not any(pid in pids for pid, _ in reading.processes) if is_host else not pids


def _attribute(reading: DeviceReading, pids: frozenset[int], *, is_host: bool) -> tuple[int | None, float | None, bool]:
    """Return memory and utilisation of ours, and whether others use the device, as the newest answer of its owners says.

    In a PID namespace NVML tells PIDs that are not ours, or none at all: no match then means "unknown", not "not used". Whoever it
    names beyond the number of our processes is a stranger all the same.
    """
    if reading.processes is None:
        return None, None, bool(reading.is_shared)
    own = [used for pid, used in reading.processes if pid in pids]
    if not own and not is_host:
        return None, None, len(reading.processes) > len(pids)
    memory = None if None in own else sum(used for used in own if used is not None)
    utilization = None
    if reading.process_utilization is not None:
        utilization = sum((percent for pid, percent in reading.process_utilization if pid in pids), 0.0)
    return memory, utilization, reading.is_shared if reading.is_shared is not None else len(own) < len(reading.processes)
