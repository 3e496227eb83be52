"""``gpu-stall``: the host waits for a GPU whose kernel does not end, or for a device that is lost.

Utilisation alone calls a spinning kernel busy, and power cannot tell it from a small training (123 against 126 W on an H100): what
separates the two is traffic, at its floor.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec

from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.fingerprint import fingerprint
from unsloth_watch.diagnose.frames import own_frame, plain_name
from unsloth_watch.diagnose.remedies import relaunch
from unsloth_watch.model.diagnosis import Culprit, Diagnosis, Remedy, Statement, Status
from unsloth_watch.model.evidence import Frame, ProcessEvidence, ThreadEvidence
from unsloth_watch.model.sample import GpuSample

SYNCHRONISES = re.compile(
    r"\b(cuda|cu|hip)\w*(Synchronize|EventQuery|StreamQuery)|\b(cuda|cu|hip)Memcpy\w*|_local_scalar_dense_cuda"
)
"""Native functions in which the host waits for its device: of CUDA's runtime and driver, of HIP, and of torch's ``item()``."""
DEPTH = 40
"""Frames searched from the inside: an H100's driver had nine of its own below ``cuCtxSynchronize``."""
LOST_XIDS = frozenset({"48", "61", "62", "74", "79", "94", "95", "119", "120", "140", "143", "154"})
"""Xid faults after which a device or its firmware needs a reset, by NVIDIA's catalogue."""
_XID = re.compile(r"Xid \((?:PCI:)?([0-9A-Fa-f:.]+)\): (\d+)")
_STAMP = re.compile(r"\[\s*(\d+(?:\.\d+)?)\]")
_USER_HZ = 100
# Start times count in it; 100 on every machine that CUDA runs on.
_SLACK_S = 60.0
# The kernel's log has a clock of its own, which drifts from that of start times.
MIN_UTILISATION = 90.0
DRAM_FLOOR, TENSOR_FLOOR, PCIE_FLOOR = 0.05, 0.05, 1.5e6
"""Percent, percent and bytes a second below which nothing moves, where the host's own floor was not learned. Measured on an H100:
0.001, 0 and 1.4e6 at most with a spinning kernel, and 0.5, 0.7 and 220e6 at least in real training steps."""
MIN_SAMPLES = 3


class _Device(msgspec.Struct, frozen=True):
    """A device, as the kept samples show it.

    Attributes:
        sample: The newest reading.
        is_spinning: Whether it was busy in all readings and nothing moved.
        readings: How many.
    """

    sample: GpuSample
    is_spinning: bool
    readings: int


class GpuStall:
    """A thread that waits for the device, and a device that is busy without any traffic or was reported lost."""

    id = "gpu-stall"

    def judge(self, case: Case) -> Diagnosis | None:
        """Return the stall; None where neither a thread nor a device shows one."""
        waits = list(_find_waits(case))
        spinning = next((device for device in _read_devices(case) if device.is_spinning), None)
        faults = _find_faults(case)
        if not (spinning or (waits and (faults or case.is_doubted))):
            return None
        process, thread = waits[0] if waits else (case.root, case.root.main_thread if case.root else None)
        is_sure = bool(waits) and (spinning is not None or bool(faults & LOST_XIDS))
        if not case.is_doubted or (spinning is not None and not faults and _has_ranks(case)):
            # A collective whose other ranks are late spins on the device in the same way.
            status, confidence = Status.HYPOTHESIS, 0.45
        elif is_sure:
            status, confidence = Status.ESTABLISHED, 0.95
        elif spinning is not None:
            status, confidence = Status.SUPPORTED, 0.75
        else:
            status, confidence = (Status.SUPPORTED, 0.6) if faults else (Status.HYPOTHESIS, 0.4)
        return _explain(case, status, confidence, (process, thread), (spinning, faults))


def _has_ranks(case: Case) -> bool:
    """Whether the job has several ranks, which meet in collectives."""
    sizes = ((process.environment or {}).get("WORLD_SIZE", "") for process in case.processes)
    return any(size.isdecimal() and int(size) > 1 for size in sizes)


def _find_waits(case: Case) -> Iterator[tuple[ProcessEvidence, ThreadEvidence]]:
    """Yield the threads that wait for a device, main threads first."""
    found = [
        (process, thread)
        for process in case.processes
        for thread in process.threads
        if any(_is_synchronising(frame) for frame in thread.frames[:DEPTH])
    ]
    yield from sorted(found, key=lambda pair: not pair[1].is_main)


def _is_synchronising(frame: Frame) -> bool:
    if frame.is_native:
        return SYNCHRONISES.search(frame.function) is not None
    return plain_name(frame.function) == "synchronize" and "/torch/" in frame.file


def _read_devices(case: Case) -> Iterator[_Device]:
    """Yield the job's devices."""
    by_uuid: dict[str, list[GpuSample]] = {}
    for sample in case.samples:
        for gpu in sample.gpus or ():
            if gpu.is_ours:
                by_uuid.setdefault(gpu.uuid, []).append(gpu)
    for readings in by_uuid.values():
        yield _Device(readings[-1], len(readings) >= MIN_SAMPLES and all(_is_spinning(gpu) for gpu in readings), len(readings))


def _is_spinning(gpu: GpuSample) -> bool:
    """Whether a kernel is resident and nothing moves; at least two kinds of traffic must be known."""
    if gpu.utilization is None or gpu.utilization < MIN_UTILISATION or gpu.is_shared:
        return False
    pcie = None if gpu.pcie_rx is None or gpu.pcie_tx is None else gpu.pcie_rx + gpu.pcie_tx
    checks = (
        (gpu.dram, max(DRAM_FLOOR, 2 * (gpu.floor_dram or 0))),
        (gpu.tensor, max(TENSOR_FLOOR, 2 * (gpu.floor_tensor or 0))),
        (pcie, max(PCIE_FLOOR, 2 * (gpu.floor_pcie or 0))),
    )
    known = [(value, floor) for value, floor in checks if value is not None]
    return len(known) >= 2 and all(value <= floor for value, floor in known)


def _find_faults(case: Case) -> frozenset[str]:
    """Return the numbers of the Xid faults that the kernel or the driver reported of the job's devices while it ran.

    The log goes back to the boot and tells of all cards: a fault of last week, or of a neighbour's card, explains nothing. Where it
    is not known which devices are the job's, all are asked.
    """
    own = {gpu.uuid for sample in case.samples for gpu in sample.gpus or () if gpu.is_ours}
    buses = {_shorten(device.facts.get("bus", "")) for device in case.evidence.devices if device.uuid in own}
    start_s = min((process.ref.start_ticks for process in case.processes), default=0) / _USER_HZ
    logged = {
        number
        for line in case.evidence.kernel_log
        for bus, number in _XID.findall(line)
        if _is_since(line, start_s) and (not buses or _shorten(bus) in buses)
    }
    sensed = {
        str(number) for sample in case.samples for gpu in sample.gpus or () if not own or gpu.uuid in own for number in gpu.xids
    }
    return frozenset(logged | sensed)


def _is_since(line: str, start_s: float) -> bool:
    """Whether a line of the kernel's log is from then on; one without a time is believed."""
    stamp = _STAMP.match(line)
    return stamp is None or float(stamp[1]) >= start_s - _SLACK_S


def _shorten(bus: str) -> str:
    """Return the part of a PCI address that kernel and NVML write alike: ``0000:1A:00`` against ``00000000:1A:00.0``."""
    return ":".join(bus.lower().partition(".")[0].split(":")[-2:])


def _explain(
    case: Case,
    status: Status,
    confidence: float,
    waiter: tuple[ProcessEvidence | None, ThreadEvidence | None],
    found: tuple[_Device | None, frozenset[str]],
) -> Diagnosis:
    (process, thread), (spinning, faults) = waiter, found
    frame = own_frame(thread.frames) if thread is not None else None
    device = f"GPU {spinning.sample.index} ({spinning.sample.uuid})" if spinning is not None else "the GPU"
    pid = process.ref.pid if process is not None else None
    culprit = Culprit(
        kind="device", pid=pid, thread=thread.name if thread else None, frame=str(frame) if frame else None, peer=device
    )
    is_lost = bool(faults & LOST_XIDS)
    what = (
        f"it reported Xid {', '.join(sorted(faults))} and needs a reset"
        if is_lost
        else "a kernel on it does not end"
        if spinning is not None
        else "it does not answer"
    )
    where = f" in {frame}" if frame else ""
    return Diagnosis(
        cause=GpuStall.id,
        title="The GPU does not finish",
        summary=f"PID {pid} waits{where} for {device}: {what}.",
        status=status,
        confidence=confidence,
        culprit=culprit,
        evidence=tuple(_state(case, thread, spinning, faults)),
        refuted_by="memory or PCIe traffic of the device rises above its floor, or the host thread leaves the driver",
        remedies=tuple(_advise(spinning, is_lost)),
        fingerprint=fingerprint(GpuStall.id, Culprit(kind="device"), thread.frames if thread else ()),
    )


def _state(case: Case, thread: ThreadEvidence | None, spinning: _Device | None, faults: frozenset[str]) -> Iterator[Statement]:
    if thread is not None:
        inner: Sequence[Frame] = [frame for frame in thread.frames[:DEPTH] if _is_synchronising(frame)]
        if inner:
            yield Statement(f"thread {thread.name} is in {inner[0].function}", "stack")
    if spinning is not None:
        gpu = spinning.sample
        yield Statement(
            f"GPU {gpu.index} is {gpu.utilization:.0f} % busy in {spinning.readings} readings, with "
            f"{_say(gpu.dram, ' % of memory bandwidth')}, {_say(gpu.tensor, ' % of the tensor cores')} and "
            f"{_say(None if gpu.pcie_rx is None else gpu.pcie_rx / 1e6, ' MB/s over PCIe')}",
            "NVML",
        )
    for number in sorted(faults):
        yield Statement(f"Xid {number} was reported", "kernel log or NVML")
    if case.evidence.host.get("driver"):
        yield Statement(f"driver {case.evidence.host['driver']}", "NVML")


def _say(value: float | None, unit: str) -> str:
    return f"unknown{unit}" if value is None else f"{value:.3g}{unit}"


def _advise(spinning: _Device | None, is_lost: bool) -> Iterator[Remedy]:
    if is_lost:
        yield Remedy(
            "reset-gpu",
            "a lost device answers nobody before its reset",
            "advice",
            advice="nvidia-smi --gpu-reset, or restart the machine",
        )
        return
    why = "a fresh process gets a fresh context; the device's memory must be free first"
    yield relaunch(why if spinning is not None else "the driver may answer a fresh process")
