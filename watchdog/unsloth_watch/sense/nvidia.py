"""The real NVML behind the border in ``nvml``: nvidia-ml-py, imported only in the thread that reads it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

from unsloth_watch.sense.nvml import DeviceReading, Fault, NvmlError

_GPM = ("SM_UTIL", "ANY_TENSOR_UTIL", "DRAM_BW_UTIL", "PCIE_RX_PER_SEC", "PCIE_TX_PER_SEC")
_MIB = float(1 << 20)
_T = TypeVar("_T")


class Pynvml:
    """The real library. ``pynvml`` is imported in ``open``: it costs 10 ms and 1 MB that a machine without a GPU need not pay."""

    def __init__(self) -> None:
        self._nv: Any = None
        self._handles: list[Any] = []
        self._gpm: list[list[Any] | None] = []
        self._has_gpm_span: list[bool] = []
        self._seen_us: list[int] = []

    def open(self) -> tuple[str, ...]:
        """Initialise and return the UUID of each device.

        Raises:
            NvmlError: It cannot.
        """
        try:
            import pynvml  # noqa: PLC0415  the thread that needs it pays for it
        except ImportError as error:
            raise NvmlError(Fault.LIBRARY, f"nvidia-ml-py is not installed: {error}") from error
        self._nv = pynvml
        try:
            pynvml.nvmlInit()
            count = pynvml.nvmlDeviceGetCount()
            self._handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
            uuids = tuple(_text(pynvml.nvmlDeviceGetUUID(handle)) for handle in self._handles)
        except pynvml.NVMLError as error:
            raise self._translated(error) from error
        self._gpm = [self._start_gpm(handle) for handle in self._handles]
        self._has_gpm_span = [False] * count
        self._seen_us = [0] * count
        return uuids

    def read(self, index: int, *, asks_slowly: bool, asks_owners: bool) -> DeviceReading:
        """Read one device.

        Raises:
            NvmlError: The device cannot be read at all.
        """
        nv, handle = self._nv, self._handles[index]
        utilization: Any = self._ask(nv.nvmlDeviceGetUtilizationRates, handle)
        memory: Any = self._ask(nv.nvmlDeviceGetMemoryInfo, handle)
        power_mw: Any = self._ask(nv.nvmlDeviceGetPowerUsage, handle)
        rates = self._read_gpm(index)
        if self._gpm[index] is None and asks_slowly:
            received: Any = self._ask(nv.nvmlDeviceGetPcieThroughput, handle, nv.NVML_PCIE_UTIL_RX_BYTES)
            sent: Any = self._ask(nv.nvmlDeviceGetPcieThroughput, handle, nv.NVML_PCIE_UTIL_TX_BYTES)
            # NVML counts in KB/s here and in MiB/s in GPM.
            slow = (None if received is None else received * 1e3, None if sent is None else sent * 1e3)
        else:
            slow = (None, None)
        sm, tensor, dram, pcie_rx, pcie_tx = rates or (None, None, None, *slow)
        return DeviceReading(
            utilization=None if utilization is None else float(utilization.gpu),
            memory_bytes=None if memory is None else int(memory.used),
            power_w=None if power_mw is None else power_mw / 1000,
            sm=sm,
            tensor=tensor,
            dram=dram,
            pcie_rx=pcie_rx,
            pcie_tx=pcie_tx,
            processes=self._read_processes(handle) if asks_owners else None,
            process_utilization=self._read_process_utilization(index) if asks_owners else None,
        )

    def close(self) -> None:
        """Let go of the library."""
        if self._nv is not None:
            try:
                self._nv.nvmlShutdown()
            except self._nv.NVMLError:
                # It was lost already, and nothing of it is left to release.
                pass

    def _ask(self, call: Callable[..., _T], *arguments: object) -> _T | None:
        """Return what a call answers, or None where the device does not support it or does not allow it.

        Raises:
            NvmlError: Anything worse.
        """
        nv = self._nv
        try:
            return call(*arguments)
        except nv.NVMLError as error:
            if error.value in (nv.NVML_ERROR_NOT_SUPPORTED, nv.NVML_ERROR_NO_PERMISSION, nv.NVML_ERROR_FUNCTION_NOT_FOUND):
                return None
            raise self._translated(error) from error

    def _start_gpm(self, handle: object) -> list[Any] | None:
        """Return two GPM samples, the first one taken; None before Hopper."""
        nv = self._nv
        try:
            if not nv.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice:
                return None
            samples = [nv.nvmlGpmSampleAlloc(), nv.nvmlGpmSampleAlloc()]
            nv.nvmlGpmSampleGet(handle, samples[0])
        except (nv.NVMLError, AttributeError):
            # Old drivers lack the functions, old bindings the names, MIG devices the permission: all mean "no GPM".
            return None
        return samples

    def _read_gpm(self, index: int) -> tuple[float | None, ...] | None:
        """Return SM, tensor and DRAM in percent, PCIe to and from the device in bytes a second, since the previous reading.

        The first reading follows ``open`` at once: over so short a span an H100 answered 0 for traffic and NaN for DRAM, which
        would read as a device at rest. So there is none; the second one covers all since ``open``.
        """
        samples, nv = self._gpm[index], self._nv
        if samples is None or not self._has_gpm_span[index]:
            self._has_gpm_span[index] = True
            return None
        try:
            nv.nvmlGpmSampleGet(self._handles[index], samples[1])
            ask = nv.c_nvmlGpmMetricsGet_t()
            ask.version = nv.NVML_GPM_METRICS_GET_VERSION
            ask.numMetrics = len(_GPM)
            ask.sample1, ask.sample2 = samples
            for place, name in enumerate(_GPM):
                ask.metrics[place].metricId = getattr(nv, f"NVML_GPM_METRIC_{name}")
            nv.nvmlGpmMetricsGet(ask)
        except nv.NVMLError as error:
            fault = self._translated(error)
            if fault.fault is Fault.OTHER:
                # Another profiler holds the counters for now; what the other calls say still stands.
                return None
            raise fault from error
        samples.reverse()
        values = [float(ask.metrics[place].value) for place in range(len(_GPM))]
        values[3] *= _MIB
        values[4] *= _MIB
        return tuple(None if math.isnan(value) else value for value in values)

    def _read_processes(self, handle: object) -> tuple[tuple[int, int | None], ...] | None:
        found: Any = self._ask(self._nv.nvmlDeviceGetComputeRunningProcesses, handle)
        if found is None:
            return None
        return tuple((int(entry.pid), None if entry.usedGpuMemory is None else int(entry.usedGpuMemory)) for entry in found)

    def _read_process_utilization(self, index: int) -> tuple[tuple[int, float], ...] | None:
        nv = self._nv
        try:
            entries = nv.nvmlDeviceGetProcessUtilization(self._handles[index], self._seen_us[index])
        except nv.NVMLError as error:
            if error.value == nv.NVML_ERROR_NOT_FOUND:
                # No sample since the given time: nobody used the device.
                return ()
            if error.value in (nv.NVML_ERROR_NOT_SUPPORTED, nv.NVML_ERROR_NO_PERMISSION, nv.NVML_ERROR_FUNCTION_NOT_FOUND):
                return None
            raise self._translated(error) from error
        newest: dict[int, tuple[int, float]] = {}
        for entry in entries:
            stamp = int(entry.timeStamp)
            if stamp > newest.get(int(entry.pid), (self._seen_us[index], 0.0))[0]:
                newest[int(entry.pid)] = (stamp, float(entry.smUtil))
        self._seen_us[index] = max([self._seen_us[index], *(stamp for stamp, _ in newest.values())])
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


def _text(value: str | bytes) -> str:
    """Return a text of NVML; bindings before 11.515 give bytes."""
    return value.decode() if isinstance(value, bytes) else value
