"""The GPUs of a report, from what an H100 answered."""

from __future__ import annotations

import msgspec
import pytest

from recordednvml import Replay, read_recording
from unsloth_watch.capture.devices import read_devices
from unsloth_watch.model.sample import GpuSample, Sample
from unsloth_watch.tell.devices import tabulate_devices
from unsloth_watch.tell.series import latest_gpus, merge_devices

STATES = read_recording("h100-nvml")
pytestmark = pytest.mark.quick


def rows_of(state: str, *samples: GpuSample):
    devices = read_devices(STATES[state]["log"], Replay(STATES[state]["calls"]))
    return merge_devices(latest_gpus([Sample(1.0, 1.0, None, gpus=samples)]), devices), devices[0].uuid


def test_a_device_has_one_row_with_its_sample_and_its_record() -> None:
    _, uuid = rows_of("held")
    (row,), _ = rows_of("held", GpuSample(0, uuid, 0.0, dram=0.0006, pcie_rx=8e3, own_memory_bytes=1 << 30))
    assert (row["index"], row["dram"], row["record"]["name"]) == (0, 0.0006, "NVIDIA H100 80GB HBM3")
    assert row["processes"] == [f"PID {STATES['held']['pid']} (not of this PID namespace) 1634 MiB"]
    assert msgspec.json.encode(row)


def test_the_table_says_what_is_wrong_before_all_numbers() -> None:
    rows, _ = rows_of("fault")
    table = tabulate_devices(rows)
    names = [row["fact"] for row in table]
    assert names[:3] == ["model", "uuid", "what is wrong"]
    assert "Xid 31" in table[2]["GPU 0"]
    assert len(table) <= 30, "a longer one is cut in report.md"


def test_a_card_without_a_record_is_told_by_its_sample() -> None:
    table = tabulate_devices(merge_devices(latest_gpus([Sample(1.0, 1.0, None, gpus=(GpuSample(0, "0000:08:00.0", 98.0),))]), ()))
    assert {row["fact"]: row["GPU 0"] for row in table} == {"uuid": "0000:08:00.0", "utilisation": "98 %"}


def test_two_instances_of_one_card_have_a_column_each() -> None:
    gpus = (GpuSample(0, "MIG-1", 1.0), GpuSample(0, "MIG-2", 2.0))
    table = tabulate_devices(merge_devices(latest_gpus([Sample(1.0, 1.0, None, gpus=gpus)]), ()))
    assert [list(row.values())[1:] for row in table] == [["MIG-1", "MIG-2"], ["1 %", "2 %"]]


def test_no_device_is_no_table() -> None:
    assert tabulate_devices([]) == []
