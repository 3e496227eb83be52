"""A sample: everything that one tick saw of a job, immutable and with its own clock."""

from __future__ import annotations

import msgspec

from unsloth_watch.model.evidence import Evidence
from unsloth_watch.model.process import ProcessRef, ProcessSample
from unsloth_watch.model.receiver import ReceiverSample

INDEX = "#"
"""Sign before the place of a bare number that may be the index of its line."""


class Reading(msgspec.Struct, frozen=True, array_like=True):
    """A line of output reduced to what can advance.

    Attributes:
        shape: Hash of the line with its numbers taken out, 8 hex digits: the same statement prints the same shape.
        name: Word or sign that names the number (``step``, ``loss``, ``n/total``, ``%``), ``#0`` and ``#1`` for the first bare
            whole numbers of a line without a counter; empty for a line without numbers.
        value: The number; 0 for a line without numbers.
        total: What the number counts towards, where the line says so (``30/60`` → 60).
    """

    shape: str
    name: str = ""
    value: float = 0.0
    total: float | None = None


class OutputSample(msgspec.Struct, frozen=True, omit_defaults=True):
    r"""What the command has printed.

    Attributes:
        total_bytes: Bytes printed so far on both streams.
        lines: Lines ended so far by ``\n`` or ``\r``.
        readings: Readings of the lines that are new since the previous sample, newest last, bounded.
        is_blocked: True while our own reader cannot keep up, so the command may be waiting for us.
        prompt: The unfinished last line where it has stood still for a tick (``Continue? [y/N] ``), else None.
    """

    total_bytes: int
    lines: int
    readings: tuple[Reading, ...] = ()
    is_blocked: bool = False
    prompt: str | None = None


class FileSample(msgspec.Struct, frozen=True, array_like=True):
    """An open regular file of the job.

    Attributes:
        device: Device number of the file system (``major:minor`` as one integer) or mount id where that is unknown.
        inode: Inode number.
        path: Path as the kernel shows it.
        offset: Furthest file offset among the job's descriptors, bytes.
        size: Size in bytes; None where asking could block (network and FUSE file systems).
        is_writer: Whether a descriptor is open for writing.
    """

    device: int
    inode: int
    path: str
    offset: int
    size: int | None
    is_writer: bool


class GpuSample(msgspec.Struct, frozen=True, omit_defaults=True):
    """One GPU device. Rates are over the time since the previous sample; ``None`` means unknown.

    Attributes:
        index: Device index as NVML counts.
        uuid: Device's UUID.
        utilization: Percent of time in which a kernel was resident (does not mean work).
        memory_bytes: Memory in use on the device, bytes.
        power_w: Board power, watts.
        sm: Percent of SMs active (GPM).
        tensor: Percent of peak of the tensor cores (GPM).
        dram: Percent of peak memory bandwidth (GPM).
        pcie_rx: Bytes per second from host to device.
        pcie_tx: Bytes per second from device to host.
        own_memory_bytes: Memory held on it by processes of the job, bytes.
        own_utilization: Percent that NVML attributes to processes of the job.
        is_shared: Whether processes outside the job use the device too.
        is_visible: Whether the job's environment (``CUDA_VISIBLE_DEVICES``) lets it use the device; True where that is unknown.
        clock_mhz: Clock of the SMs, MHz.
        throttle: Why the clocks are held down (``thermal``, ``power cap``), empty for no reason, None where unknown.
        temperature_c: Temperature of the core, degrees Celsius.
        energy_j: Energy used since the driver was loaded, joules.
        ecc_uncorrected: Uncorrectable memory errors since the driver was loaded.
        is_remap_pending: Whether rows of bad memory wait for a reset to be replaced.
        xids: Xid faults that the driver reported since the previous reading.
        floor_dram: Percent of memory bandwidth that this host's device shows while nothing of ours uses it; None until learned.
        floor_tensor: The same for the tensor cores.
        floor_pcie: The same for PCIe, both directions together, bytes per second.
        floor_age_s: Age of the three, seconds.
        read_at: When the device was read, on the sample's clock; the same in two samples where there was no newer reading.
    """

    index: int
    uuid: str
    utilization: float | None = None
    memory_bytes: int | None = None
    power_w: float | None = None
    sm: float | None = None
    tensor: float | None = None
    dram: float | None = None
    pcie_rx: float | None = None
    pcie_tx: float | None = None
    own_memory_bytes: int | None = None
    own_utilization: float | None = None
    is_shared: bool = False
    is_visible: bool = True
    clock_mhz: int | None = None
    throttle: tuple[str, ...] | None = None
    temperature_c: int | None = None
    energy_j: float | None = None
    ecc_uncorrected: int | None = None
    is_remap_pending: bool | None = None
    xids: tuple[int, ...] = ()
    floor_dram: float | None = None
    floor_tensor: float | None = None
    floor_pcie: float | None = None
    floor_age_s: float | None = None
    read_at: float | None = None

    @property
    def is_ours(self) -> bool:
        """Whether the job may be using it: it holds memory there, or nobody can say and its environment allows it."""
        return self.own_memory_bytes > 0 if self.own_memory_bytes is not None else self.is_visible


class ConnectionSample(msgspec.Struct, frozen=True, array_like=True):
    """A TCP connection of the job. Counters are totals since it was made.

    Attributes:
        inode: Inode number of the socket: a name that lasts as long as the connection.
        peer: Address and port of the other end.
        received: Bytes that the job has read from it; what waits in the kernel unread is left out.
        sent: Bytes of the job that the other end's kernel has acknowledged.
        is_inside: Whether the other end belongs to the job too (ranks and workers over loopback).
    """

    inode: int
    peer: str
    received: int
    sent: int
    is_inside: bool = False


class Look(msgspec.Struct, frozen=True, array_like=True):
    """One nonblocking look at the stack of a process's main thread.

    Attributes:
        ref: The process.
        stack: Hash of the whole stack (function, file, line), 8 hex digits.
        top: Innermost frames as ``function (file:line)``, innermost first, at most six.
        is_active: What py-spy thinks; described, never decided by.
    """

    ref: ProcessRef
    stack: str
    top: tuple[str, ...]
    is_active: bool


class Sample(msgspec.Struct, frozen=True, omit_defaults=True):
    """One tick.

    Attributes:
        at: Monotonic seconds, from the supervisor's one clock; the judge has no other time.
        wall: Unix time in seconds, for people only.
        processes: The job's processes, zombies included, in no order that matters; None if /proc could not be read.
        output: The command's output; None where it is not relayed (``--capture inherit``).
        files: Open regular files; None if unreadable.
        gpus: Devices that the job can see; None if unknown, empty if there is none.
        connections: TCP connections of the job; None where it has some and no bytes could be read. Empty without any, and in
            recordings from before they were read. Where some of them are unknown, ``degraded`` says so.
        looks: Stack looks that were taken since the previous sample.
        surveys: Surveys of all threads' waits that were taken since then, reduced to what a proof needs.
        gap_s: Seconds in which the machine or the supervisor did not run (suspend, SIGSTOP); no evidence either way.
        degraded: Names of the sensors that could not answer this time.
        heartbeats: Newest ``X_STEP`` or watchdog count that the command itself reported, if it ever did.
        attempt: Number of the attempt that it belongs to; the judge starts each with an empty memory.
        cpu_share: Share of a core that a thread which wants to run gets, 1 while there are cores to spare; None if unknown.
        is_renewed: Whether the job was repaired since the previous sample, and its silence counts from there.
        receivers: Threads that a survey found waiting for data which nobody counts; only of a job that shows nothing else. None
            where there are some and they could not be read.
    """

    at: float
    wall: float
    processes: tuple[ProcessSample, ...] | None
    output: OutputSample | None = None
    files: tuple[FileSample, ...] | None = None
    gpus: tuple[GpuSample, ...] | None = None
    connections: tuple[ConnectionSample, ...] | None = ()
    looks: tuple[Look, ...] = ()
    surveys: tuple[Evidence, ...] = ()
    gap_s: float = 0.0
    degraded: tuple[str, ...] = ()
    heartbeats: int | None = None
    attempt: int = 1
    is_renewed: bool = False
    cpu_share: float | None = None
    receivers: tuple[ReceiverSample, ...] | None = ()
