"""The border to GPUs that tests replace, as this program uses it, and the faults of NVML by class.

CPU costs on an H100 (driver 580), once a second with cold caches: utilisation, memory and power 0.1 ms each, processes 0.3, GPM
0.5, process utilisation 1.8 ms, which is more than all the rest; in a tight loop they are ten to a hundred times cheaper. PCIe
throughput blocks 21 ms a direction, total energy and field values 4 ms.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
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


NEXT_STEPS = {
    Fault.LIBRARY: "the driver and its library must be there and of one version: after an update of the driver, reboot",
    Fault.LOST: "the GPU fell off the bus or needs a reset: look for an Xid in the kernel log, then reset it or reboot; "
    "no relaunch on it can work",
    Fault.DETACHED: "in a container this means that the device was taken away, as `systemctl daemon-reload` on the host does: "
    "restart the container; elsewhere look into the kernel log",
    Fault.OTHER: "compare with nvidia-smi",
}
"""What the user can do about a fault."""


class NvmlError(Exception):
    """NVML answered with an error.

    Args:
        fault: Its class.
        words: What NVML says.
    """

    def __init__(self, fault: Fault, words: str) -> None:
        super().__init__(words)
        self.fault = fault


class Device(msgspec.Struct, frozen=True):
    """A device that can be read.

    Attributes:
        uuid: NVIDIA's UUID (``GPU-…``, ``MIG-…``), or the PCI address of another vendor's card.
        index: Number by which users know it: NVML's index, a MIG instance's parent.
        name: Model.
    """

    uuid: str
    index: int
    name: str = ""


class DeviceReading(msgspec.Struct, frozen=True):
    """What is known of one device at one moment. ``None`` means that this device or driver does not tell, or was not asked.

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
        clock_mhz: Clock of the SMs.
        throttle: Why the clocks are held down.
        temperature_c: Temperature, degrees Celsius.
        energy_j: Energy since the driver was loaded.
        ecc_uncorrected: Uncorrectable memory errors since the driver was loaded.
        is_remap_pending: Whether bad rows wait for a reset to be replaced.
        xids: Faults since the previous reading.
        is_shared: Whether others use it, where that is not to be told from ``processes``.
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
    clock_mhz: int | None = None
    throttle: tuple[str, ...] | None = None
    temperature_c: int | None = None
    energy_j: float | None = None
    ecc_uncorrected: int | None = None
    is_remap_pending: bool | None = None
    xids: tuple[int, ...] = ()
    is_shared: bool | None = None


class Gpus(Protocol):
    """The calls that the GPU sense makes, all from one thread."""

    def open(self) -> tuple[Device, ...]:
        """Initialise and return the devices.

        Raises:
            NvmlError: It cannot.
        """
        ...

    def read(self, place: int, pids: Collection[int], *, asks_slowly: bool, asks_owners: bool) -> DeviceReading:
        """Read one device.

        Args:
            place: Place in what ``open`` returned.
            pids: The job's processes that may use a GPU.
            asks_slowly: Whether the calls of 4 to 20 ms may be made this time.
            asks_owners: Whether to ask who uses it; without, ``process_utilization`` is None, and so may ``processes`` be.

        Raises:
            NvmlError: The device cannot be read at all.
        """
        ...

    def close(self) -> None:
        """Let go of it."""
        ...
