"""Who holds memory on the GPUs right now: asked at once and directly, where the sense's last reading may be seconds old."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping

import msgspec

from unsloth_watch.sense.nvidia import Pynvml
from unsloth_watch.sense.nvml import Device, DeviceReading, Gpus, NvmlError

POLL_S = 0.1
"""Seconds between looks: after SIGKILL an H100's memory was free within 0.2 s."""
SETTLED_READINGS = 5
"""Readings without any further fall after which memory that cannot be attributed counts as settled."""
_MIB = 1 << 20


class Release(msgspec.Struct, frozen=True):
    """What became of the memory of processes that were ended.

    Attributes:
        is_free: Whether none of them holds any; where the driver does not tell whose memory it is, whether it has stopped falling.
        seconds: How long it took, or was waited.
        devices: Each device in words: ``GPU 0: 21504 MiB, 420 MiB after``.
        why: Why it could not be seen, else None.
    """

    is_free: bool
    seconds: float
    devices: tuple[str, ...] = ()
    why: str | None = None


def await_release(
    pids: Collection[int],
    limit_s: float,
    *,
    is_attributed: bool,
    before: Mapping[str, int] | None = None,
    gpus: Callable[[], Gpus] = Pynvml,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Release:
    """Wait until ended processes are gone from every GPU; blocks, so it belongs into a thread.

    Args:
        pids: The processes.
        limit_s: Longest wait, seconds.
        is_attributed: Whether the driver tells PIDs that are ours.
        before: Bytes in use by UUID while they lived; only for the words.
        gpus: Makes the library's border.
        clock: Monotonic seconds.
        sleep: Waits.
    """
    began = clock()
    border = gpus()
    try:
        devices = border.open()
        readings = _read_all(border, devices, pids)
        steady = 0
        while not (is_free := not _find_holders(readings, pids) if is_attributed else steady >= SETTLED_READINGS):
            if clock() - began >= limit_s:
                break
            sleep(POLL_S)
            earlier, readings = readings, _read_all(border, devices, pids)
            steady = steady + 1 if _sum_memory(readings) >= _sum_memory(earlier) else 0
        holders = _find_holders(readings, pids)
        words = tuple(
            _describe(device, (before or {}).get(device.uuid), reading.memory_bytes, holders)
            for device, reading in zip(devices, readings, strict=True)
        )
        return Release(is_free, clock() - began, words)
    except NvmlError as error:
        return Release(False, clock() - began, why=str(error))
    finally:
        border.close()


def _read_all(border: Gpus, devices: Collection[Device], pids: Collection[int]) -> tuple[DeviceReading, ...]:
    return tuple(border.read(place, pids, asks_slowly=False, asks_owners=True) for place in range(len(devices)))


def _find_holders(readings: Collection[DeviceReading], pids: Collection[int]) -> frozenset[int]:
    return frozenset(pid for reading in readings for pid, _ in reading.processes or () if pid in pids)


def _sum_memory(readings: Collection[DeviceReading]) -> int:
    return sum(reading.memory_bytes or 0 for reading in readings)


def _describe(device: Device, before: int | None, after: int | None, holders: frozenset[int]) -> str:
    sizes = ["?" if memory is None else f"{memory // _MIB} MiB" for memory in (before, after)]
    held = f", held by PID {', '.join(map(str, sorted(holders)))}" if holders else ""
    return f"GPU {device.index}: {sizes[0]} in use, {sizes[1]} after{held}"
