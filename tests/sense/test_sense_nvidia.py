"""NVIDIA's cards through the real reader, over NVML as it answered on an H100 80GB HBM3, driver 580.159.04."""

from __future__ import annotations

import pynvml
import pytest

from recordednvml import Replay, read_recording
from unsloth_watch.sense.nvidia import HEALTH_EVERY, Pynvml
from unsloth_watch.sense.nvml import DeviceReading, Fault, NvmlError

STATES = read_recording("h100-nvml")
FIRST = {"asks_slowly": True, "asks_owners": True}
LATER = {"asks_slowly": False, "asks_owners": True}
pytestmark = pytest.mark.quick


def reader_of(state: str, **faults: int) -> tuple[Pynvml, Replay]:
    binding = Replay(STATES[state]["calls"], faults)
    return Pynvml(binding), binding


def read(state: str, times: int) -> list[DeviceReading]:
    reader, _ = reader_of(state)
    reader.open()
    return [reader.read(0, (), **(FIRST if number == 0 else LATER)) for number in range(times)]


def test_the_card_is_named() -> None:
    reader, _ = reader_of("idle")
    (device,) = reader.open()
    assert (device.index, device.name) == (0, "NVIDIA H100 80GB HBM3")
    assert device.uuid.startswith("GPU-")


def test_a_card_at_rest_shows_its_floor_and_nobody() -> None:
    *_, last = read("idle", 3)
    assert (last.utilization, last.processes, last.tensor, last.throttle) == (0.0, (), 0.0, ())
    assert last.dram == pytest.approx(0.0006, abs=0.0003)
    assert last.pcie_rx + last.pcie_tx < 2e6
    assert last.clock_mhz == 345


def test_memory_held_is_told_by_process() -> None:
    *_, last = read("held", 3)
    assert last.processes == ((STATES["held"]["pid"], 1713373184),)
    assert (last.utilization, last.dram < 0.01) == (0.0, True)


def test_a_low_duty_cycle_shows_in_the_traffic() -> None:
    *_, last = read("duty", 3)
    assert last.tensor > 5
    assert last.dram > 1
    assert dict(last.process_utilization) == {STATES["duty"]["pid"]: pytest.approx(9.0, abs=2)}


def test_a_kernel_that_never_ends_is_busy_without_any_traffic() -> None:
    *_, last = read("spin", 3)
    assert (last.utilization, last.tensor) == (100.0, 0.0)
    assert last.dram < 0.01
    assert last.pcie_rx + last.pcie_tx < 2e6


def test_the_first_reading_tells_no_traffic_as_its_span_is_too_short() -> None:
    first, second, *_ = read("duty", 3)
    assert (first.dram, first.pcie_rx) == (None, None)
    assert second.dram is not None


def test_a_fault_of_the_driver_is_told_once_with_its_number() -> None:
    first, second, *_ = read("fault", 3)
    assert (first.xids, second.xids) == ((31,), ())


def test_health_is_asked_in_few_of_the_slow_turns() -> None:
    reader, binding = reader_of("idle")
    reader.open()
    told = [reader.read(0, (), **FIRST).energy_j is not None for _ in range(HEALTH_EVERY + 1)]
    assert told == [True, *[False] * (HEALTH_EVERY - 1), True]
    assert binding.asked.count("nvmlDeviceGetTotalEccErrors") == 2


def test_memory_that_comes_is_attributed_at_once() -> None:
    calls = [dict(call) for call in STATES["held"]["calls"]]
    memory = [call for call in calls if call["call"] == "nvmlDeviceGetMemoryInfo"]
    reader, binding = reader_of("held")
    reader.open()
    first = reader.read(0, (), asks_slowly=False, asks_owners=False)
    second = reader.read(0, (), asks_slowly=False, asks_owners=False)
    assert len({call["answer"]["used"] for call in memory}) == 1
    assert (first.processes is not None, second.processes) == (True, None)
    assert binding.asked.count("nvmlDeviceGetComputeRunningProcesses") == 1


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (pynvml.NVML_ERROR_GPU_IS_LOST, Fault.LOST),
        (pynvml.NVML_ERROR_UNKNOWN, Fault.DETACHED),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, Fault.LIBRARY),
        (pynvml.NVML_ERROR_TIMEOUT, Fault.OTHER),
    ],
)
def test_an_error_of_nvml_is_said_for_what_it_is(error: int, fault: Fault) -> None:
    reader, _ = reader_of("idle", nvmlDeviceGetUtilizationRates=error)
    reader.open()
    with pytest.raises(NvmlError) as caught:
        reader.read(0, (), **LATER)
    assert caught.value.fault is fault


def test_a_device_that_does_not_support_a_question_is_read_without_the_answer() -> None:
    reader, _ = reader_of("idle", nvmlDeviceGetUtilizationRates=pynvml.NVML_ERROR_NOT_SUPPORTED)
    reader.open()
    reading = reader.read(0, (), **LATER)
    assert (reading.utilization, reading.memory_bytes is not None) == (None, True)


def test_what_nothing_depends_on_may_fail_unless_the_device_is_lost() -> None:
    reader, binding = reader_of("idle", nvmlDeviceGetTemperature=pynvml.NVML_ERROR_UNKNOWN)
    reader.open()
    assert reader.read(0, (), **LATER).temperature_c is None
    binding.faults["nvmlDeviceGetTemperature"] = pynvml.NVML_ERROR_GPU_IS_LOST
    with pytest.raises(NvmlError):
        reader.read(0, (), **LATER)


def test_a_driver_without_events_is_read_without_them() -> None:
    reader, binding = reader_of("idle", nvmlEventSetWait_v2=pynvml.NVML_ERROR_UNKNOWN)
    reader.open()
    assert reader.read(0, (), **LATER).xids == ()
    reader.read(0, (), **LATER)
    assert binding.asked.count("nvmlEventSetWait_v2") == 1


def split_in_two() -> list[dict[str, object]]:
    """The recorded calls as NVML documents them for a GPU that is split: one instance exists, the other number is free."""
    changed = {
        "nvmlDeviceGetMigMode": {"answer": [1, 1]},
        "nvmlDeviceGetUUID": {"answer": "MIG-11111111-2222-3333-4444-555555555555"},
        "nvmlDeviceGetUtilizationRates": {"error": pynvml.NVML_ERROR_NOT_SUPPORTED},
        "nvmlGpmSampleGet": {"call": "nvmlGpmMigSampleGet", "arguments": [3]},
    }
    calls = [{**call, **changed.get(call["call"], {})} for call in STATES["duty"]["calls"]]
    handle = {"handle": "mig"}
    return [
        *calls,
        {"call": "nvmlDeviceGetMaxMigDeviceCount", "arguments": [], "answer": 2},
        {"call": "nvmlDeviceGetMigDeviceHandleByIndex", "arguments": [0], "error": pynvml.NVML_ERROR_NOT_FOUND},
        {"call": "nvmlDeviceGetMigDeviceHandleByIndex", "arguments": [1], "answer": handle},
        {"call": "nvmlDeviceGetGpuInstanceId", "arguments": [], "answer": 3},
    ]


def test_of_a_split_gpu_its_instances_are_read() -> None:
    binding = Replay(split_in_two())
    reader = Pynvml(binding)
    (device,) = reader.open()
    assert (device.uuid[:4], device.index, device.name) == ("MIG-", 0, "NVIDIA H100 80GB HBM3 MIG")
    *_, reading = [reader.read(0, (), **asks) for asks in (FIRST, LATER, LATER)]
    assert (reading.utilization, reading.tensor > 5) == (None, True)
    assert "nvmlGpmSampleGet" not in binding.asked
