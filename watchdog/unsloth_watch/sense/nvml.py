"""NVML as this program uses it: the border that tests replace, and its faults by class.

CPU costs on an H100 (driver 580), once a second with cold caches: utilisation, memory and power 0.1 ms each, processes 0.3, GPM
0.5, process utilisation 1.8 ms, which is more than all the rest; in a tight loop they are ten to a hundred times cheaper. PCIe
throughput blocks 21 ms a direction.
"""

from __future__ import annotations

import enum
from typing import Protocol

import msgspec


class Fault(str, enum.Enum):
    """Why NVML cannot answer."""

    LIBRARY = "library"
    """There is a device node and no usable library or driver."""
    LOST = "lost"
    """The GPU fell off the bus or needs a reset; no relaunch on it will work."""
    DETACHED = "detached"
    """"Unknown Error": in a container, the device was taken away (``systemctl daemon-reload``); the container must be restarted."""
    OTHER = "other"
    """Anything else, in NVML's own words."""


class NvmlError(Exception):
    """NVML answered with an error.

    Args:
        fault: Its class.
        words: What NVML says.
    """

    def __init__(self, fault: Fault, words: str) -> None:
        super().__init__(words)
        self.fault = fault


class DeviceReading(msgspec.Struct, frozen=True):
    """What NVML says of one device. ``None`` means that this device or driver does not tell.

    Attributes:
        utilization: Percent of time with a kernel resident.
        memory_bytes: Memory in use.
        power_w: Board power.
        sm: Percent of SMs active.
        tensor: Percent of the tensor cores' peak.
        dram: Percent of peak memory bandwidth.
        pcie_rx: Bytes a second to the device.
        pcie_tx: Bytes a second from it.
        processes: (PID, bytes) of every process that uses it; bytes None where the driver does not attribute.
        process_utilization: (PID, percent) since the previous reading; empty when nobody used it.
    """

    utilization: float | None = None
    memory_bytes: int | None = None
    power_w: float | None = None
    sm: float | None = None
    tensor: float | None = None
    dram: float | None = None
    pcie_rx: float | None = None
    pcie_tx: float | None = None
    processes: tuple[tuple[int, int | None], ...] | None = None
    process_utilization: tuple[tuple[int, float], ...] | None = None


class Nvml(Protocol):
    """The calls that the GPU sense makes, all from one thread."""

    def open(self) -> tuple[str, ...]:
        """Initialise and return the UUID of each device.

        Raises:
            NvmlError: It cannot.
        """
        ...

    def read(self, index: int, *, asks_slowly: bool, asks_owners: bool) -> DeviceReading:
        """Read one device.

        Args:
            index: Device.
            asks_slowly: Whether the calls of 20 ms may be made this time.
            asks_owners: Whether to ask who uses it; without, both ``process`` fields are None.

        Raises:
            NvmlError: The device cannot be read at all.
        """
        ...

    def close(self) -> None:
        """Let go of the library."""
        ...
