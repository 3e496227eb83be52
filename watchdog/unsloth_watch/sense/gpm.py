"""GPM: the counters of Hopper and newer that tell traffic from residence (SMs, tensor cores, DRAM, PCIe)."""

from __future__ import annotations

import math
from typing import Any

_METRICS = ("SM_UTIL", "ANY_TENSOR_UTIL", "DRAM_BW_UTIL", "PCIE_RX_PER_SEC", "PCIE_TX_PER_SEC")
_MIB = float(1 << 20)
Binding = Any
"""NVML's binding and what it answers: ctypes structures without types."""
NOTHING = (None, None, None, None, None)


class Gpm:
    """GPM of one device: two samples that take turns.

    Args:
        nv: NVML's binding.
        gpu: Handle of the whole GPU.
        instance: Id of the MIG instance; None for the whole GPU.
    """

    def __init__(self, nv: Binding, gpu: object, instance: int | None) -> None:
        self._nv = nv
        self._gpu = gpu
        self._instance = instance
        self._samples = [nv.nvmlGpmSampleAlloc(), nv.nvmlGpmSampleAlloc()]
        self._has_span = False
        self._take(0)

    @classmethod
    def start(cls, nv: Binding, gpu: object, instance: int | None) -> Gpm | None:
        """Return GPM with its first sample taken; None before Hopper."""
        try:
            return cls(nv, gpu, instance) if nv.nvmlGpmQueryDeviceSupport(gpu).isSupportedDevice else None
        except (nv.NVMLError, AttributeError):
            # Old drivers lack the functions, old bindings the names, MIG devices the permission: all mean "no GPM".
            return None

    def read(self) -> tuple[float | None, ...]:
        """Return SM, tensor and DRAM in percent, PCIe to and from the device in bytes a second, since the previous reading.

        The first reading follows ``open`` at once: over so short a span an H100 answered 0 for traffic and NaN for DRAM, which
        would read as a device at rest. So there is none; the second one covers all since ``open``.

        Raises:
            Exception: The binding's ``NVMLError``.
        """
        if not self._has_span:
            self._has_span = True
            return NOTHING
        nv = self._nv
        self._take(1)
        ask = nv.c_nvmlGpmMetricsGet_t()
        ask.version = nv.NVML_GPM_METRICS_GET_VERSION
        ask.numMetrics = len(_METRICS)
        ask.sample1, ask.sample2 = self._samples
        for place, name in enumerate(_METRICS):
            ask.metrics[place].metricId = getattr(nv, f"NVML_GPM_METRIC_{name}")
        nv.nvmlGpmMetricsGet(ask)
        self._samples.reverse()
        values = [float(ask.metrics[place].value) for place in range(len(_METRICS))]
        values[3] *= _MIB
        values[4] *= _MIB
        return tuple(None if math.isnan(value) else value for value in values)

    def _take(self, which: int) -> None:
        if self._instance is None:
            self._nv.nvmlGpmSampleGet(self._gpu, self._samples[which])
        else:
            self._nv.nvmlGpmMigSampleGet(self._gpu, self._instance, self._samples[which])
