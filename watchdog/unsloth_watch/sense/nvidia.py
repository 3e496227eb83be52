"""NVIDIA's cards behind the border in ``nvml``: nvidia-ml-py, imported only in the thread that reads it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from unsloth_watch.sense.gpm import NOTHING, Binding, Gpm
from unsloth_watch.sense.nvml import Device, DeviceReading, Fault, NvmlError

HEALTH_EVERY = 6
"""Slow turns between the questions after energy, memory errors and remaps: 8 ms of CPU together on an H100, and minutes do."""
_MOST_EVENTS = 64
"""Events taken at one reading: a fault storm must not hold the sense up."""
_SOFT = ("NVML_ERROR_NOT_SUPPORTED", "NVML_ERROR_NO_PERMISSION", "NVML_ERROR_FUNCTION_NOT_FOUND", "NVML_ERROR_INVALID_ARGUMENT")
"""Errors by which a device, a driver or a MIG instance says that it does not answer this question, and nothing more."""
THROTTLES = {
    "nvmlClocksThrottleReasonSwPowerCap": "power cap",
    "nvmlClocksThrottleReasonHwSlowdown": "hardware slowdown",
    "nvmlClocksThrottleReasonSyncBoost": "sync boost",
    "nvmlClocksThrottleReasonSwThermalSlowdown": "thermal",
    "nvmlClocksThrottleReasonHwThermalSlowdown": "thermal (hardware)",
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": "power brake",
}
"""Reasons that slow a job down; an idle GPU and clocks that somebody chose do not count."""
_T = TypeVar("_T")


class Pynvml:
    """The real library. ``pynvml`` is imported in ``open``: it costs 10 ms and 1 MB that a machine without a GPU need not pay.

    Args:
        binding: The library's binding; None imports ``pynvml``.
    """

    def __init__(self, binding: Binding = None) -> None:
        self._nv: Any = binding
        self._cards: list[_Card] = []
        self._events: Any = None
        self._is_open = False

    def open(self) -> tuple[Device, ...]:
        """Initialise and return the devices: each GPU, or its MIG instances where it is split.

        Raises:
            NvmlError: It cannot.
        """
        if self._nv is None:
            try:
                import pynvml  # noqa: PLC0415  the thread that needs it pays for it
            except ImportError as error:
                raise NvmlError(Fault.LIBRARY, f"nvidia-ml-py is not installed: {error}") from error
            self._nv = pynvml
        nv = self._nv
        try:
            nv.nvmlInit()
            self._is_open = True
            gpus = [nv.nvmlDeviceGetHandleByIndex(index) for index in range(nv.nvmlDeviceGetCount())]
            self._cards = [card for index, gpu in enumerate(gpus) for card in self._list_cards(index, gpu)]
        except nv.NVMLError as error:
            raise self._translated(error) from error
        self._events = self._listen(gpus)
        return tuple(card.device for card in self._cards)

    def read(self, place: int, pids: Collection[int], *, asks_slowly: bool, asks_owners: bool) -> DeviceReading:
        """Read one device; ``pids`` do not matter, as NVML tells everybody's.

        Raises:
            NvmlError: The device cannot be read at all.
        """
        del pids
        card, nv = self._cards[place], self._nv
        self._take_events()
        utilization: Any = self._ask(nv.nvmlDeviceGetUtilizationRates, card.handle)
        memory: Any = self._ask(nv.nvmlDeviceGetMemoryInfo, card.handle)
        power_mw: Any = self._ask(nv.nvmlDeviceGetPowerUsage, card.gpu)
        sm, tensor, dram, pcie_rx, pcie_tx = self._read_gpm(card)
        if card.gpm is None and asks_slowly:
            pcie_rx, pcie_tx = self._read_pcie(card)
        xids, card.xids = tuple(card.xids), []
        used = None if memory is None else int(memory.used)
        # Memory that has come or gone is somebody's: whose, must not wait for the next turn.
        asks_processes, card.used = asks_owners or used != card.used, used
        asks_health, card.slow_turns = asks_slowly and card.slow_turns % HEALTH_EVERY == 0, card.slow_turns + asks_slowly
        return DeviceReading(
            utilization=None if utilization is None else float(utilization.gpu),
            memory_bytes=used,
            power_w=None if power_mw is None else power_mw / 1000,
            sm=sm,
            tensor=tensor,
            dram=dram,
            pcie_rx=pcie_rx,
            pcie_tx=pcie_tx,
            processes=self._read_processes(card) if asks_processes else None,
            process_utilization=self._read_process_utilization(card) if asks_owners else None,
            clock_mhz=self._ask_aside(nv.nvmlDeviceGetClockInfo, card.gpu, nv.NVML_CLOCK_SM),
            throttle=self._read_throttle(card),
            temperature_c=self._ask_aside(nv.nvmlDeviceGetTemperature, card.gpu, nv.NVML_TEMPERATURE_GPU),
            energy_j=_scaled(self._ask_aside(nv.nvmlDeviceGetTotalEnergyConsumption, card.gpu), 1e-3) if asks_health else None,
            ecc_uncorrected=self._read_ecc(card) if asks_health else None,
            is_remap_pending=self._read_remap(card) if asks_health else None,
            xids=xids,
        )

    def close(self) -> None:
        """Let go of the library."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            if self._events is not None:
                self._nv.nvmlEventSetFree(self._events)
            self._nv.nvmlShutdown()
        except self._nv.NVMLError:
            # It was lost already, and nothing of it is left to release.
            pass
        self._cards, self._events = [], None

    def _list_cards(self, index: int, gpu: object) -> list[_Card]:
        """Return a GPU, or the MIG instances of one that is split: CUDA can use only those then."""
        nv = self._nv
        name = _text(self._ask(nv.nvmlDeviceGetName, gpu) or "")
        bus = _text(nv.nvmlDeviceGetPciInfo(gpu).busId)
        mode: Any = self._ask(nv.nvmlDeviceGetMigMode, gpu)
        if mode is None or mode[0] != nv.NVML_DEVICE_MIG_ENABLE:
            return [_Card(Device(_text(nv.nvmlDeviceGetUUID(gpu)), index, name), gpu, gpu, bus, gpm=Gpm.start(nv, gpu, None))]
        cards = []
        for number in range(self._ask(nv.nvmlDeviceGetMaxMigDeviceCount, gpu) or 0):
            try:
                handle = nv.nvmlDeviceGetMigDeviceHandleByIndex(gpu, number)
            except nv.NVMLError as error:
                if error.value == nv.NVML_ERROR_NOT_FOUND:
                    continue  # no instance has this number
                raise
            instance: Any = self._ask(nv.nvmlDeviceGetGpuInstanceId, handle)
            device = Device(_text(nv.nvmlDeviceGetUUID(handle)), index, f"{name} MIG")
            cards.append(_Card(device, handle, gpu, bus, gpm=Gpm.start(nv, gpu, instance)))
        return cards

    def _ask(self, call: Callable[..., _T], *arguments: object) -> _T | None:
        """Return what a call answers, or None where the device does not support it or does not allow it.

        Raises:
            NvmlError: Anything worse.
        """
        nv = self._nv
        try:
            return call(*arguments)
        except nv.NVMLError as error:
            if error.value in [getattr(nv, name) for name in _SOFT]:
                return None
            raise self._translated(error) from error

    def _ask_aside(self, call: Callable[..., _T], *arguments: object) -> _T | None:
        """Return what a call answers that nothing depends on: None after any error, unless the device is lost.

        Raises:
            NvmlError: It is lost.
        """
        try:
            return self._ask(call, *arguments)
        except NvmlError as error:
            if error.fault is Fault.LOST:
                raise
            return None

    def _listen(self, gpus: Sequence[object]) -> Binding:
        """Return an event set with the Xids of all GPUs; None where the driver has none, as in some containers."""
        nv = self._nv
        try:
            events = nv.nvmlEventSetCreate()
            for gpu in gpus:
                nv.nvmlDeviceRegisterEvents(gpu, nv.nvmlEventTypeXidCriticalError, events)
        except nv.NVMLError:
            # Whatever speaks against it: the kernel's log tells of them too, at the latest when a hang is captured.
            return None
        return events

    def _take_events(self) -> None:
        """Hand the events that are there to their cards; never waits."""
        nv = self._nv
        for _ in range(_MOST_EVENTS if self._events is not None else 0):
            try:
                event = nv.nvmlEventSetWait_v2(self._events, 0)
            except nv.NVMLError as error:
                if error.value != nv.NVML_ERROR_TIMEOUT:  # which says that there is none
                    # The other calls decide whether the device is lost; a driver without working events is read without them.
                    self._events = None
                return
            if event.eventType == nv.nvmlEventTypeXidCriticalError:
                bus = _text(nv.nvmlDeviceGetPciInfo(event.device).busId)
                for card in self._cards:
                    if card.bus == bus:
                        card.xids.append(int(event.eventData))

    def _read_gpm(self, card: _Card) -> tuple[float | None, ...]:
        """Return what GPM tells, nothing where there is none.

        Raises:
            NvmlError: The device is lost.
        """
        if card.gpm is None:
            return NOTHING
        try:
            return card.gpm.read()
        except self._nv.NVMLError as error:
            fault = self._translated(error)
            if fault.fault is Fault.OTHER:
                # Another profiler holds the counters for now; what the other calls say still stands.
                return NOTHING
            raise fault from error

    def _read_pcie(self, card: _Card) -> tuple[float | None, float | None]:
        """Return bytes a second to and from the device; NVML counts in KB/s here and in MiB/s in GPM."""
        nv = self._nv
        return (
            _scaled(self._ask(nv.nvmlDeviceGetPcieThroughput, card.gpu, nv.NVML_PCIE_UTIL_RX_BYTES), 1e3),
            _scaled(self._ask(nv.nvmlDeviceGetPcieThroughput, card.gpu, nv.NVML_PCIE_UTIL_TX_BYTES), 1e3),
        )

    def _read_throttle(self, card: _Card) -> tuple[str, ...] | None:
        mask = self._ask_aside(self._nv.nvmlDeviceGetCurrentClocksThrottleReasons, card.gpu)
        return None if mask is None else tuple(words for name, words in THROTTLES.items() if mask & getattr(self._nv, name))

    def _read_ecc(self, card: _Card) -> int | None:
        nv = self._nv
        return self._ask_aside(
            nv.nvmlDeviceGetTotalEccErrors, card.gpu, nv.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nv.NVML_VOLATILE_ECC
        )

    def _read_remap(self, card: _Card) -> bool | None:
        rows: Any = self._ask_aside(self._nv.nvmlDeviceGetRemappedRows, card.gpu)
        return None if rows is None else bool(rows[2])

    def _read_processes(self, card: _Card) -> tuple[tuple[int, int | None], ...] | None:
        found: Any = self._ask(self._nv.nvmlDeviceGetComputeRunningProcesses, card.handle)
        if found is None:
            return None
        return tuple((int(entry.pid), None if entry.usedGpuMemory is None else int(entry.usedGpuMemory)) for entry in found)

    def _read_process_utilization(self, card: _Card) -> tuple[tuple[int, float], ...] | None:
        nv = self._nv
        try:
            entries = nv.nvmlDeviceGetProcessUtilization(card.handle, card.seen_us)
        except nv.NVMLError as error:
            if error.value == nv.NVML_ERROR_NOT_FOUND:
                # No sample since the given time: nobody used the device.
                return ()
            if error.value in [getattr(nv, name) for name in _SOFT]:
                return None
            raise self._translated(error) from error
        newest: dict[int, tuple[int, float]] = {}
        for entry in entries:
            stamp = int(entry.timeStamp)
            if stamp > newest.get(int(entry.pid), (card.seen_us, 0.0))[0]:
                newest[int(entry.pid)] = (stamp, float(entry.smUtil))
        card.seen_us = max([card.seen_us, *(stamp for stamp, _ in newest.values())])
        return tuple((pid, percent) for pid, (_, percent) in newest.items())

    def _translated(self, error: Exception) -> NvmlError:
        """Return NVML's error in our classes."""
        nv = self._nv
        faults = {
            nv.NVML_ERROR_GPU_IS_LOST: Fault.LOST,
            nv.NVML_ERROR_RESET_REQUIRED: Fault.LOST,
            nv.NVML_ERROR_UNKNOWN: Fault.DETACHED,
            nv.NVML_ERROR_LIBRARY_NOT_FOUND: Fault.LIBRARY,
            nv.NVML_ERROR_DRIVER_NOT_LOADED: Fault.LIBRARY,
            nv.NVML_ERROR_LIB_RM_VERSION_MISMATCH: Fault.LIBRARY,
        }
        return NvmlError(faults.get(getattr(error, "value", None), Fault.OTHER), str(error))


class _Card:
    """A device with its handle, that of the whole GPU, and what is remembered between readings."""

    def __init__(self, device: Device, handle: object, gpu: object, bus: str, *, gpm: Gpm | None) -> None:
        self.device = device
        self.handle = handle
        self.gpu = gpu
        self.bus = bus
        self.gpm = gpm
        self.seen_us = 0
        self.used: int | None = None
        self.slow_turns = 0
        self.xids: list[int] = []


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _text(value: str | bytes) -> str:
    """Return a text of NVML; bindings before 11.515 give bytes."""
    return value.decode() if isinstance(value, bytes) else value
