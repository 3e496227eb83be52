"""What a card of this host shows at rest, kept between runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from unsloth_watch.sense.floor import LEAST_READINGS, LIFETIME_S, FloorBook
from unsloth_watch.sense.nvml import DeviceReading

pytestmark = pytest.mark.quick


class Wall:
    def __init__(self) -> None:
        self.now = 1_795_000_000.0

    def __call__(self) -> float:
        return self.now


def resting(pcie: float, dram: float = 0.0) -> DeviceReading:
    return DeviceReading(utilization=0.0, dram=dram, tensor=0.0, pcie_rx=pcie / 2, pcie_tx=pcie / 2)


def test_a_floor_is_the_median_at_rest_once_enough_was_seen(tmp_path: Path) -> None:
    book = FloorBook(None, Wall())
    for pcie in (4e5, 3e8, 4.2e5)[: LEAST_READINGS - 1]:
        book.learn("GPU-1", resting(pcie))
        assert book.find("GPU-1") is None
    book.learn("GPU-1", resting(4.2e5))
    floor, age_s = book.find("GPU-1") or pytest.fail("nothing was learned")
    assert (floor.pcie, floor.dram, age_s) == (4.2e5, 0.0, 0.0)


def test_a_floor_outlives_the_run_with_its_age_and_ends_when_it_is_too_old(tmp_path: Path) -> None:
    wall, path = Wall(), str(tmp_path / "state" / "gpu-floors.json")
    book = FloorBook(path, wall)
    for _ in range(LEAST_READINGS):
        book.learn("GPU-1", resting(6e6, dram=0.4))
    assert book.trouble is None
    wall.now += 3600.0
    floor, age_s = FloorBook(path, wall).find("GPU-1") or pytest.fail("it was not kept")
    assert (floor.pcie, floor.dram, age_s) == (6e6, 0.4, 3600.0)
    wall.now += LIFETIME_S
    assert FloorBook(path, wall).find("GPU-1") is None


def test_what_this_run_sees_replaces_what_an_earlier_one_saw(tmp_path: Path) -> None:
    wall, path = Wall(), str(tmp_path / "gpu-floors.json")
    for pcie in (6e6, 1e5):
        book = FloorBook(path, wall)
        for _ in range(LEAST_READINGS):
            book.learn("GPU-1", resting(pcie))
        floor, _ = book.find("GPU-1") or pytest.fail("nothing was learned")
        assert floor.pcie == pcie


def test_another_cards_floor_stays_in_the_file(tmp_path: Path) -> None:
    wall, path = Wall(), str(tmp_path / "gpu-floors.json")
    for uuid in ("GPU-1", "GPU-2"):
        book = FloorBook(path, wall)
        for _ in range(LEAST_READINGS):
            book.learn(uuid, resting(1e5))
    kept = FloorBook(path, wall)
    assert kept.find("GPU-1") is not None
    assert kept.find("GPU-2") is not None


def test_a_card_that_tells_no_traffic_has_no_floor() -> None:
    book = FloorBook(None, Wall())
    for _ in range(LEAST_READINGS):
        book.learn("GPU-1", DeviceReading(utilization=0.0))
    assert book.find("GPU-1") is None


@pytest.mark.parametrize("text", ["", "[]", '{"GPU-1": 3}'])
def test_a_broken_file_is_said_and_made_anew(tmp_path: Path, text: str) -> None:
    path = tmp_path / "gpu-floors.json"
    path.write_text(text)
    book = FloorBook(str(path), Wall())
    assert book.trouble is not None
    for _ in range(LEAST_READINGS):
        book.learn("GPU-1", resting(1e5))
    assert FloorBook(str(path), Wall()).find("GPU-1") is not None


def test_a_place_that_cannot_be_written_costs_only_the_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    book = FloorBook(str(tmp_path / "file" / "gpu-floors.json"), Wall())
    for _ in range(LEAST_READINGS):
        book.learn("GPU-1", resting(1e5))
    assert book.trouble is not None
    assert book.find("GPU-1") is not None
