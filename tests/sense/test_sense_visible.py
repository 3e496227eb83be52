"""Which cards a job may use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from unsloth_watch.sense.nvml import Device
from unsloth_watch.sense.visible import read_visible, select_visible

H100 = "NVIDIA H100 80GB HBM3"
CARDS = tuple(Device(f"GPU-{letter * 8}", index, H100) for index, letter in enumerate("abcd"))
MIXED = (*CARDS[:1], Device("GPU-eeeeeeee", 1, "NVIDIA T4"))
SPLIT = (Device("MIG-11111111", 0, "A100 MIG"), Device("MIG-22222222", 0, "A100 MIG"))
pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("value", "devices", "expected"),
    [
        (None, CARDS, {0, 1, 2, 3}),
        ("", CARDS, set()),
        ("-1", CARDS, set()),
        ("NoDevFiles", CARDS, set()),
        ("2", CARDS, {2}),
        (" 1, 3", CARDS, {1, 3}),
        ("0,7,1", CARDS, {0}),
        ("GPU-b", CARDS, {1}),
        ("GPU-dddddddd,0", CARDS, {3, 0}),
        ("1", MIXED, {0, 1}),
        ("GPU-e", MIXED, {1}),
        ("MIG-22222222", SPLIT, {1}),
        ("0", SPLIT, {0, 1}),
    ],
)
def test_the_variable_is_read_as_cuda_reads_it(value: str | None, devices: tuple[Device, ...], expected: set[int]) -> None:
    assert select_visible(value, None, devices) == expected


def test_with_the_order_of_the_bus_an_index_is_clear_among_unlike_cards() -> None:
    assert select_visible("1", "PCI_BUS_ID", MIXED) == {1}


def start(**variables: str) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", "print('ready', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], **variables},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    return child


def test_the_ranks_of_a_job_see_what_any_of_them_sees() -> None:
    ranks = [start(CUDA_VISIBLE_DEVICES="0"), start(CUDA_VISIBLE_DEVICES="2")]
    try:
        assert read_visible([rank.pid for rank in ranks], CARDS) == {0, 2}
    finally:
        for rank in ranks:
            rank.communicate(b"\n")


def test_a_job_that_nobody_can_read_may_use_every_card() -> None:
    child = start(CUDA_VISIBLE_DEVICES="0")
    child.communicate(b"\n")
    assert read_visible([child.pid], CARDS) == {0, 1, 2, 3}
    assert read_visible([], CARDS) == {0, 1, 2, 3}
