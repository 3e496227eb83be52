"""AMD's and Intel's cards: recorded fdinfo files laid out as /proc and /sys show them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from unsloth_watch.sense.drm import STRANGERS_BYTES, Drm, has_render_node, parse_fdinfo

DATA = Path(__file__).parents[1] / "data" / "gpu" / "fdinfo"
BUSES = {"amdgpu": "0000:08:00.0", "i915": "0000:00:02.0", "xe": "0000:03:00.0"}
PID = 4711
pytestmark = pytest.mark.quick


def recorded(driver: str) -> str:
    return (DATA / f"{driver}.txt").read_text()


class Machine:
    """A folder with one card and one process, and a clock that is moved by hand."""

    def __init__(self, place: Path, driver: str):
        self.proc, self.root, self.now = place / "proc", place / "drm", 100.0
        self.device = place / "devices" / BUSES[driver]
        (place / "drivers" / driver).mkdir(parents=True)
        self.device.mkdir(parents=True)
        (self.device / "driver").symlink_to(place / "drivers" / driver)
        (self.root / "renderD128").mkdir(parents=True)
        (self.root / "renderD128" / "device").symlink_to(self.device)
        for folder in ("fd", "fdinfo"):
            (self.proc / str(PID) / folder).mkdir(parents=True)
        self.drm = Drm(str(self.proc), str(self.root), lambda: self.now)

    def open_file(self, fd: int, target: str, text: str) -> None:
        link = self.proc / str(PID) / "fd" / str(fd)
        if not os.path.lexists(link):
            link.symlink_to(target)
        (self.proc / str(PID) / "fdinfo" / str(fd)).write_text(text)

    def read(self, pids=(PID,)):
        return self.drm.read(0, pids, asks_slowly=False, asks_owners=True)


@pytest.mark.parametrize(("driver", "client", "memory"), [("amdgpu", 217, 2068 << 10), ("i915", 18, None), ("xe", 3, 23992 << 10)])
def test_a_recorded_file_is_read(driver: str, client: int, memory: int | None) -> None:
    found = parse_fdinfo(recorded(driver))
    assert found is not None
    assert (found.driver, found.bus, found.id, found.memory_bytes) == (driver, BUSES[driver], client, memory)
    busy = {"amdgpu": 107322799, "i915": 25662044495}
    if driver in busy:
        assert max(found.busy_ns.values()) == busy[driver]
    else:
        assert found.cycles["rcs"] == (28257900, 7655183225)


def test_a_file_of_another_kind_or_driver_is_none_of_ours() -> None:
    assert parse_fdinfo("pos:\t0\nflags:\t02\nmnt_id:\t26\n") is None
    assert parse_fdinfo(recorded("i915").replace("i915", "nvidia-drm")) is None


@pytest.mark.parametrize(("driver", "engine"), [("amdgpu", "gfx"), ("i915", "render")])
def test_the_share_of_the_busiest_engine_is_utilisation_of_ours(tmp_path: Path, driver: str, engine: str) -> None:
    machine = Machine(tmp_path, driver)
    (device,) = machine.drm.open()
    assert (device.uuid, device.index) == (BUSES[driver], 0)
    machine.open_file(9, "/dev/dri/renderD128", recorded(driver))
    assert machine.read().process_utilization is None
    machine.now += 2.0
    worked = re.sub(rf"(drm-engine-{engine}:\t)(\d+)", lambda m: f"{m[1]}{int(m[2]) + 500_000_000}", recorded(driver))
    machine.open_file(9, "/dev/dri/renderD128", worked)
    reading = machine.read()
    assert reading.process_utilization == ((PID, pytest.approx(25.0)),)
    assert reading.utilization == pytest.approx(25.0), "neither tells of the whole card here"


def test_cycles_are_a_share_of_the_cycles_that_passed(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "xe")
    machine.drm.open()
    machine.open_file(9, "/dev/dri/renderD128", recorded("xe"))
    machine.read()
    machine.now += 1.0
    later = recorded("xe").replace("rcs:\t28257900", "rcs:\t28258900").replace("7655183225", "7655185225")
    machine.open_file(9, "/dev/dri/renderD128", later)
    ((_, percent),) = machine.read().process_utilization or ()
    assert percent == pytest.approx(50.0)


def test_two_descriptors_of_one_client_count_once(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "amdgpu")
    machine.drm.open()
    machine.open_file(9, "/dev/dri/renderD128", recorded("amdgpu"))
    machine.open_file(10, "/dev/dri/renderD128", recorded("amdgpu"))
    assert machine.read().processes == ((PID, 2068 << 10),)


def test_a_card_that_others_use_is_shared_and_its_traffic_is_told(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "amdgpu")
    machine.drm.open()
    machine.open_file(9, "/dev/dri/renderD128", recorded("amdgpu"))
    (machine.device / "mem_busy_percent").write_text("7\n")
    (machine.device / "gpu_busy_percent").write_text("98\n")
    for used, is_shared in ((2068 << 10, False), ((2068 << 10) + STRANGERS_BYTES + 1, True)):
        (machine.device / "mem_info_vram_used").write_text(f"{used}\n")
        reading = machine.read()
        assert (reading.dram, reading.utilization, reading.memory_bytes, reading.is_shared) == (7, 98, used, is_shared)


def test_a_process_of_rocm_is_unknown_as_its_queues_bypass_the_counters(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "amdgpu")
    machine.drm.open()
    machine.open_file(9, "/dev/dri/renderD128", recorded("amdgpu"))
    machine.open_file(10, "/dev/kfd", "pos:\t0\n")
    machine.read()
    machine.now += 1.0
    reading = machine.read()
    assert (reading.processes, reading.process_utilization) == (None, None)


def test_a_job_without_a_client_uses_nothing(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "xe")
    machine.drm.open()
    machine.open_file(9, "/dev/null", "pos:\t0\n")
    assert machine.read().processes == ()


def test_only_cards_of_known_drivers_are_cards(tmp_path: Path) -> None:
    assert not has_render_node(str(tmp_path / "nowhere"))
    machine = Machine(tmp_path, "i915")
    assert has_render_node(str(machine.root))
    (machine.device / "driver").unlink()
    (tmp_path / "drivers" / "nvidia").mkdir()
    (machine.device / "driver").symlink_to(tmp_path / "drivers" / "nvidia")
    assert not has_render_node(str(machine.root))
