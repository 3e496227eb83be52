"""The whole record of a GPU, over NVML as it answered on an H100."""

from __future__ import annotations

import pynvml
import pytest

from recordednvml import Replay, read_recording
from unsloth_watch.capture.devices import read_devices

STATES = read_recording("h100-nvml")
pytestmark = pytest.mark.quick


def record_of(state: str, **faults: int):
    (device,) = read_devices(STATES[state]["log"], Replay(STATES[state]["calls"], faults))
    return device


def test_the_useful_part_of_what_nvml_knows_is_there() -> None:
    facts = record_of("held").facts
    expected = {
        "name": "NVIDIA H100 80GB HBM3",
        "driver": "580.159.04",
        "cuda": "13.0",
        "memory": "2122 of 81559 MiB used",
        "power": "122 of 700 W",
        "pcie": "generation 5 of 5, 16 of 16 lanes",
        "ecc": "on",
        "ecc_uncorrected_ever": "0",
        "remap_pending": "no",
        "recovery_action": "none",
    }
    assert {name: facts.get(name) for name in expected} == expected


def test_who_uses_the_device_is_there() -> None:
    (process,) = record_of("held").processes
    assert (process.pid, process.memory_bytes, process.kind) == (STATES["held"]["pid"], 1713373184, "compute")


def test_a_healthy_device_has_no_problems() -> None:
    device = record_of("spin")
    assert (device.problems, device.xids) == ((), ())


def test_a_fault_of_the_log_is_told_with_the_action_for_it() -> None:
    device = record_of("fault")
    assert device.xids == (31,)
    assert device.problems == (
        "Xid 31: GPU memory page fault: a kernel touched an address that is not its own; NVIDIA's catalogue: start the job again",
    )


def test_the_fault_of_another_device_is_not_this_ones() -> None:
    log = [line.replace("0000:00:06", "0000:00:07") for line in STATES["fault"]["log"]]
    (device,) = read_devices(log, Replay(STATES["fault"]["calls"]))
    assert (device.xids, device.problems) == ((), ())


def test_what_a_card_does_not_answer_is_left_out() -> None:
    facts = record_of("held", nvmlDeviceGetRemappedRows=pynvml.NVML_ERROR_NOT_SUPPORTED).facts
    assert "remapped_rows" not in facts
    assert facts["ecc"] == "on"


def test_rows_that_wait_for_a_reset_are_a_problem_with_its_mend() -> None:
    calls = [
        {**call, "answer": [0, 1, 1, 0]} if call["call"] == "nvmlDeviceGetRemappedRows" else call
        for call in STATES["held"]["calls"]
    ]
    (device,) = read_devices((), Replay(calls))
    assert any("reset the GPU" in problem for problem in device.problems)
