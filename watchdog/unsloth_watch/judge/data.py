"""Data that moved on to new ground: files, storage, memory, GPU traffic. Each meter has its noise taken out.

Reading the same ground again never counts, however much and however fast: the furthest point of every file is remembered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from unsloth_watch.judge.meter import Meter
from unsloth_watch.judge.quantity import format_size
from unsloth_watch.judge.rules import (
    FILE_BYTES_PER_S,
    GPU_FLOOR_FACTOR,
    GPU_PCIE_BYTES_PER_S,
    GPU_PCIE_FLOOR_FACTOR,
    GPU_TRAFFIC_PERCENT,
    LEAK,
    MEMORY_BYTES,
    STORAGE_BYTES_PER_S,
    Rules,
)
from unsloth_watch.model.process import ProcessRef, ProcessSample
from unsloth_watch.model.sample import FileSample, GpuSample
from unsloth_watch.model.verdict import Progress, Tier

MOST_FILES = 4096
"""Files whose furthest point is remembered; beyond, the one that was open longest ago is forgotten."""
MOST_COMMANDS = 1024
"""Names of programs that count as new; a toolchain has dozens."""
_NUMBERS = re.compile(r"\d+")


class DataMemory(msgspec.Struct, frozen=True):
    """Furthest points, and what has come together since the last progress.

    Attributes:
        furthest: Furthest byte known by (device, inode, path).
        storage: Storage bytes by process.
        peak_rss: Highest resident set by process.
        faults: Page faults by process.
        peak_gpu: Highest device memory of ours by device.
        pcie_floor: Lowest PCIe traffic seen by device, bytes per second.
        gpu_read_at: When each device's newest reading was made.
        commands: Names of programs seen.
    """

    furthest: Mapping[tuple[int, int, str], int] = {}
    storage: Mapping[ProcessRef, int] = {}
    peak_rss: Mapping[ProcessRef, int] = {}
    faults: Mapping[ProcessRef, int] = {}
    peak_gpu: Mapping[str, int] = {}
    pcie_floor: Mapping[str, float] = {}
    gpu_read_at: Mapping[str, float] = {}
    commands: frozenset[str] = frozenset()
    file_meter: Meter = Meter()
    storage_meter: Meter = Meter()
    memory_meter: Meter = Meter()


def weigh_files(memory: DataMemory, files: tuple[FileSample, ...], rules: Rules, at: float) -> tuple[DataMemory, list[Progress]]:
    """Credit files that were read or written past the furthest point known."""
    furthest = dict(memory.furthest)
    gained, most, place = 0.0, 0, ""
    is_first_look = not memory.furthest
    for file in files:
        key = (file.device, file.inode, file.path)
        point = max(file.offset, file.size or 0) if file.is_writer else file.offset
        before = furthest.pop(key, None)  # and put in anew: the order is that of use
        # A file that is new to us was worked through up to where it stands; at the first look of all nothing can be said.
        gain = 0 if is_first_look else max(0, point - before if before is not None else file.offset)
        furthest[key] = max(point, before or 0)
        gained += gain
        if gain > most:
            most, place = gain, file.path
    while len(furthest) > max(MOST_FILES, len(files)):  # never one that is open now: it would be new again
        del furthest[next(iter(furthest))]
    meter, credit = memory.file_meter.add(
        at, gained, leak_per_s=LEAK * FILE_BYTES_PER_S, quota=(1 - LEAK) * FILE_BYTES_PER_S * rules.meter_s
    )
    after = msgspec.structs.replace(memory, furthest=furthest, file_meter=meter)
    detail = f"{format_size(credit)} of new ground in files{f', most in {place}' if place else ''}"
    return after, [Progress(at, Tier.DATA, "file", detail)] if credit else []


def pass_over_files(memory: DataMemory, at: float) -> DataMemory:
    """Return the memory after a sample that could not see the files: what is not known is no silence."""
    return msgspec.structs.replace(memory, file_meter=memory.file_meter.rest(at))


def weigh_processes(
    memory: DataMemory, processes: tuple[ProcessSample, ...], rules: Rules, at: float
) -> tuple[DataMemory, list[Progress]]:
    """Credit storage traffic, resident memory beyond its highest mark, and programs never seen before.

    Memory that grows without a single fault of the process's own was faulted in by somebody who reads it: a native dump of ours
    adds 2.4 MiB to each of torch's processes.
    """
    storage: dict[ProcessRef, int] = {}
    peaks: dict[ProcessRef, int] = {}
    faults: dict[ProcessRef, int] = {}
    moved = grown = 0.0
    for process in processes:
        if process.read_bytes is not None and process.write_bytes is not None:
            storage[process.ref] = process.read_bytes + process.write_bytes
            moved += max(0, storage[process.ref] - memory.storage.get(process.ref, storage[process.ref]))
        elif process.ref in memory.storage:
            storage[process.ref] = memory.storage[process.ref]  # a total: what is not seen now is seen later
        peak = memory.peak_rss.get(process.ref, process.rss_bytes)
        faults[process.ref] = process.minflt + process.majflt
        if faults[process.ref] != memory.faults.get(process.ref):
            grown += max(0, process.rss_bytes - peak)
        peaks[process.ref] = max(peak, process.rss_bytes)
    storage_meter, storage_credit = memory.storage_meter.add(
        at, moved, leak_per_s=LEAK * STORAGE_BYTES_PER_S, quota=(1 - LEAK) * STORAGE_BYTES_PER_S * rules.meter_s
    )
    memory_meter, memory_credit = memory.memory_meter.add(at, grown, leak_per_s=MEMORY_BYTES / rules.stall_s, quota=MEMORY_BYTES)
    # Without numbers, and bounded: a poll that starts helpers under ever new names must not count for ever.
    commands = frozenset(_NUMBERS.sub("", process.comm) for process in processes) - memory.commands
    if len(memory.commands) >= MOST_COMMANDS:
        commands = frozenset()
    found = []
    if storage_credit:
        found.append(Progress(at, Tier.DATA, "storage", f"{format_size(storage_credit)} from or to storage"))
    if memory_credit:
        found.append(Progress(at, Tier.DATA, "memory", f"resident memory grew by {format_size(memory_credit)}"))
    if commands and memory.commands:
        found.append(Progress(at, Tier.DATA, "process", f"a program not seen before: {', '.join(sorted(commands))}"))
    after = msgspec.structs.replace(
        memory,
        storage=storage,
        peak_rss=peaks,
        faults=faults,
        storage_meter=storage_meter,
        memory_meter=memory_meter,
        commands=memory.commands | commands,
    )
    return after, found


def weigh_gpus(memory: DataMemory, gpus: tuple[GpuSample, ...], at: float) -> tuple[DataMemory, list[Progress]]:
    """Credit device traffic above this host's floor, and device memory of ours beyond its highest mark.

    Utilisation and power never count. A device that others use too counts only by what is attributed to us.
    """
    floors, peaks = dict(memory.pcie_floor), dict(memory.peak_gpu)
    found = []
    for gpu in gpus:
        if gpu.own_memory_bytes is not None:
            peak = peaks.get(gpu.uuid, gpu.own_memory_bytes)
            if gpu.own_memory_bytes - peak >= MEMORY_BYTES:
                found.append(
                    Progress(at, Tier.DATA, "gpu", f"GPU {gpu.index}: memory grew by {format_size(gpu.own_memory_bytes - peak)}")
                )
            peaks[gpu.uuid] = max(peak, gpu.own_memory_bytes)
        traffic = _traffic(gpu, floors)
        # A device is read less often than the job is judged: what was seen once is no news at the next sample.
        is_news = gpu.read_at is None or gpu.read_at != memory.gpu_read_at.get(gpu.uuid)
        if traffic and is_news and not gpu.is_shared and gpu.is_ours:
            found.append(Progress(at, Tier.DATA, "gpu", f"GPU {gpu.index}: {traffic}"))
    read_at = {gpu.uuid: gpu.read_at for gpu in gpus if gpu.read_at is not None}
    return msgspec.structs.replace(memory, pcie_floor=floors, peak_gpu=peaks, gpu_read_at=read_at), found


def _traffic(gpu: GpuSample, floors: dict[str, float]) -> str:
    """Return what moves on the device beyond what it shows at rest, in words; update its floor."""
    parts = []
    if gpu.dram is not None and gpu.dram > max(GPU_TRAFFIC_PERCENT, GPU_FLOOR_FACTOR * (gpu.floor_dram or 0.0)):
        parts.append(f"DRAM {gpu.dram:.1f} %")
    if gpu.tensor is not None and gpu.tensor > max(GPU_TRAFFIC_PERCENT, GPU_FLOOR_FACTOR * (gpu.floor_tensor or 0.0)):
        parts.append(f"tensor cores {gpu.tensor:.1f} %")
    if gpu.pcie_rx is not None and gpu.pcie_tx is not None:
        pcie = gpu.pcie_rx + gpu.pcie_tx
        floor = floors.get(gpu.uuid)
        if pcie > max(GPU_PCIE_BYTES_PER_S, GPU_PCIE_FLOOR_FACTOR * max(floor or 0.0, gpu.floor_pcie or 0.0)):
            parts.append(f"PCIe {pcie / 1e6:.0f} MB/s")
        # The floor is learned from quiet moments alone: a run that never rests must not raise it over its own traffic.
        if pcie <= GPU_PCIE_BYTES_PER_S:
            floors[gpu.uuid] = pcie if floor is None else min(floor, pcie)
    return ", ".join(parts)


def has_gpu_effort(gpus: tuple[GpuSample, ...], least_percent: float) -> bool:
    """Whether a device of ours is busy, by utilisation, whatever it does.

    Of a shared device only our own share counts; where the driver does not tell whose it is, it may be ours.
    """
    return any(
        ((gpu.own_utilization if gpu.is_shared and gpu.own_utilization is not None else gpu.utilization) or 0.0) >= least_percent
        for gpu in gpus
        if gpu.is_ours
    )
