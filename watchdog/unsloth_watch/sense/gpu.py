"""What the GPUs do, read in a thread of its own: a sick driver can hold one NVML call for 45 seconds, and the loop never waits."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from unsloth_watch.model.sample import GpuSample
from unsloth_watch.sense.nvidia import Pynvml
from unsloth_watch.sense.nvml import DeviceReading, Fault, Nvml, NvmlError

SLOWLY_EVERY = 10
"""Ticks between the PCIe readings of cards without GPM: one blocks 20 ms."""
INTERVAL_S = 2.0
"""Seconds between readings. One costs 2 ms of CPU on an H100; rates are averages since the one before, so none is missed."""
OWNERS_EVERY = 3
"""Ticks between the questions who uses a card: they cost 2 ms, more than all others together."""
RETRY_S = 30.0
"""Seconds before NVML is opened anew after a fault: a driver that is being replaced comes back, a lost card does not."""
_INITIAL_PID_NAMESPACE = "pid:[4026531836]"


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
        nvml: Makes the library's border; called in the thread.
        is_present: Whether there is any GPU; asked until it says yes.
        is_host: Whether the PIDs that NVML tells are ours.
        interval_s: Seconds between readings.
        retry_s: Seconds between a fault and the next try.
        clock: Monotonic seconds, the same clock as the sampler's ``at``.
    """

    def __init__(
        self,
        nvml: Callable[[], Nvml] = Pynvml,
        *,
        is_present: Callable[[], bool] = has_device_node,
        is_host: Callable[[], bool] = has_host_pids,
        interval_s: float = INTERVAL_S,
        retry_s: float = RETRY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._nvml = nvml
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
        """Say which processes are the job's, from the next reading on."""
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
            self._why = f"NVML: {fault} ({fault.fault.value})"
            return None
        answered_at = published[0] if published is not None else self._started_at
        if at - answered_at > max_age_s:
            self._why = f"NVML is blocked: no answer for {at - answered_at:.0f} s"
            return None
        return published[1] if published is not None else None

    def close(self) -> None:
        """Tell the thread to end; it is not waited for, as it may be blocked in the driver."""
        self._stop.set()

    def _start(self, at: float) -> None:
        self._started_at = at
        self._thread = threading.Thread(target=self._run, name="unsloth-watch-gpu", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        """Read until told to stop; after a fault open anew, later."""
        while not self._stop.is_set():
            nvml = self._nvml()
            try:
                self._read_on(nvml)
            except NvmlError as error:
                self._fault = error
            except Exception as error:
                # A thread that dies in silence would read as a blocked driver: whatever it was, it is said.
                self._fault = NvmlError(Fault.OTHER, f"{type(error).__name__}: {error}")
            finally:
                nvml.close()
            self._stop.wait(self._retry_s)

    def _read_on(self, nvml: Nvml) -> None:
        """Publish a reading every interval.

        Raises:
            NvmlError: NVML does not answer any more.
        """
        uuids = nvml.open()
        is_host = self._is_host()
        tick = 0
        owners: dict[int, DeviceReading] = {}
        while not self._stop.is_set():
            asks_slowly = tick % SLOWLY_EVERY == 0
            pids = self._pids
            asks_owners = tick % OWNERS_EVERY == 0
            samples = []
            for index, uuid in enumerate(uuids):
                reading = nvml.read(index, asks_slowly=asks_slowly, asks_owners=asks_owners)
                if asks_owners:
                    owners[index] = reading
                samples.append(_attribute(index, uuid, reading, owners[index], pids, is_host=is_host))
            self._published = (self._clock(), tuple(samples))
            self._fault = None
            tick += 1
            self._stop.wait(self._interval_s)


def _attribute(
    index: int, uuid: str, reading: DeviceReading, owners: DeviceReading, pids: frozenset[int], *, is_host: bool
) -> GpuSample:
    """Return a device's sample with what belongs to the job, as the newest reading of its owners says.

    In a PID namespace NVML tells PIDs that are not ours, or none at all: no match then means "unknown", not "not used".
    """
    own_memory = own_utilization = None
    is_shared = False
    if owners.processes is not None:
        own = [used for pid, used in owners.processes if pid in pids]
        if own or is_host:
            own_memory = None if None in own else sum(used for used in own if used is not None)
            is_shared = len(own) < len(owners.processes)
            if owners.process_utilization is not None:
                own_utilization = sum((percent for pid, percent in owners.process_utilization if pid in pids), 0.0)
    return GpuSample(
        index=index,
        uuid=uuid,
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
    )
