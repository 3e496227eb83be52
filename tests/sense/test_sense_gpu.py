"""The GPU sense over real recordings of an H100, and over an NVML that fails or blocks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from unsloth_watch.sense.floor import LEAST_READINGS
from unsloth_watch.sense.gpu import OWNERS_EVERY, SLOWLY_EVERY, GpuReader
from unsloth_watch.sense.nvidia import Pynvml
from unsloth_watch.sense.nvml import NEXT_STEPS, Device, DeviceReading, Fault, NvmlError
from waiting import until

DATA = Path(__file__).parents[1] / "data" / "gpu"
UUID = "GPU-4452237f-20d6-9c9f-d37a-e7cf1871612c"
pytestmark = pytest.mark.quick


class Recording:
    """An NVML that plays a recorded run; at its end it rests."""

    def __init__(self, name, strangers=()):
        self.rows = [json.loads(line) for line in (DATA / f"h100-{name}.jsonl").read_text().splitlines()]
        self.strangers = strangers
        self.asked = []
        self.is_over = threading.Event()
        self.is_closed = threading.Event()

    def open(self):
        return (Device(UUID, 0, "NVIDIA H100 80GB HBM3"),)

    def read(self, place, pids, *, asks_slowly, asks_owners):
        row = self.rows[min(len(self.asked), len(self.rows) - 1)]
        self.asked.append((asks_slowly, asks_owners))
        if len(self.asked) > len(self.rows):
            self.is_over.set()
        return DeviceReading(
            utilization=row["util"],
            memory_bytes=row["mem"] << 20,
            power_w=row["power"],
            sm=row["sm_util"],
            tensor=row["any_tensor_util"],
            dram=row["dram_bw_util"],
            pcie_rx=row["pcie_rx_per_sec"] * 2**20,
            pcie_tx=row["pcie_tx_per_sec"] * 2**20,
            processes=((row["pid"], row["mem"] << 20), *self.strangers) if asks_owners else None,
            process_utilization=((row["pid"], 9.0), (1, 80.0)) if asks_owners else None,
        )

    def close(self):
        self.is_closed.set()


class Broken(Recording):
    """An NVML that fails at a given reading."""

    def __init__(self, error, after=0):
        super().__init__("lock")
        self.error, self.after = error, after

    def open(self):
        if self.after == 0:
            raise self.error
        return super().open()

    def read(self, place, pids, **asks):
        if len(self.asked) >= self.after:
            raise self.error
        return super().read(place, pids, **asks)


class Blocked(Recording):
    """An NVML whose second reading does not come back, as with Xid 119."""

    def __init__(self):
        super().__init__("lock")
        self.release = threading.Event()
        self.is_blocked = threading.Event()

    def read(self, place, pids, **asks):
        if len(self.asked) == 1:
            self.is_blocked.set()
            self.release.wait()
        return super().read(place, pids, **asks)


@pytest.fixture
def reader_of():
    made = []

    def make(nvml, **options):
        options = {"is_present": lambda: True, "is_host": lambda: True, "interval_s": 0.001, "clock": lambda: 100.0, **options}
        made.append(GpuReader(lambda: nvml, **options))
        return made[-1]

    yield make
    for reader in made:
        reader.close()


@pytest.mark.parametrize("name", ["healthy", "lock", "spin"])
def test_a_recorded_run_is_passed_on_as_it_was_read(reader_of, name):
    nvml = Recording(name)
    last = nvml.rows[-1]
    reader = reader_of(nvml)
    reader.watch(frozenset({last["pid"]}))
    assert reader.latest(100.0, 5.0) is None or nvml.asked
    assert reader.why is None
    nvml.is_over.wait(10)
    (seen,) = until(lambda: reader.latest(101.0, 5.0))
    assert (seen.uuid, seen.utilization, seen.power_w, seen.sm) == (UUID, last["util"], last["power"], last["sm_util"])
    assert (seen.dram, seen.pcie_rx) == (last["dram_bw_util"], last["pcie_rx_per_sec"] * 2**20)
    assert (seen.own_memory_bytes, seen.own_utilization, seen.is_shared) == (last["mem"] << 20, 9.0, False)


def test_dear_questions_are_asked_in_some_ticks_only(reader_of):
    nvml = Recording("lock")
    reader_of(nvml).latest(100.0, 5.0)
    assert nvml.is_over.wait(10)
    ticks = 3 * SLOWLY_EVERY
    assert [tick for tick, (slowly, _) in enumerate(nvml.asked[:ticks]) if slowly] == [0, SLOWLY_EVERY, 2 * SLOWLY_EVERY]
    assert [tick for tick, (_, owners) in enumerate(nvml.asked[:ticks]) if owners] == list(range(0, ticks, OWNERS_EVERY))


def test_memory_of_others_is_not_ours_and_the_device_is_shared(reader_of):
    nvml = Recording("lock", strangers=((1, 5 << 30),))
    reader = reader_of(nvml)
    reader.watch(frozenset({nvml.rows[0]["pid"]}))
    (seen,) = until(lambda: reader.latest(100.0, 5.0))
    assert seen.is_shared
    assert seen.own_memory_bytes < 5 << 30


@pytest.mark.parametrize(("is_host", "memory", "utilization"), [(True, 0, 0.0), (False, None, None)])
def test_no_match_means_not_used_on_the_host_and_unknown_in_a_container(reader_of, is_host, memory, utilization):
    reader = reader_of(Recording("lock"), is_host=lambda: is_host)
    (seen,) = until(lambda: reader.latest(100.0, 5.0))
    assert (seen.own_memory_bytes, seen.own_utilization, seen.is_shared) == (memory, utilization, True)


def test_without_a_device_node_there_is_no_gpu_no_thread_and_no_noise(reader_of):
    reader = reader_of(Broken(AssertionError("nobody may ask")), is_present=lambda: False)
    before = threading.active_count()
    assert reader.latest(100.0, 5.0) == ()
    assert (reader.why, reader.fault, threading.active_count()) == (None, None, before)


def test_a_device_node_that_appears_later_is_noticed(reader_of):
    answers = iter([False, True])
    reader = reader_of(Recording("lock"), is_present=lambda: next(answers))
    assert reader.latest(100.0, 5.0) == ()
    assert until(lambda: reader.latest(100.0, 5.0))


@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("fault", list(Fault))
def test_a_fault_is_unknown_with_its_reason(reader_of, fault, after):
    nvml = Broken(NvmlError(fault, "what NVML says"), after)
    reader = reader_of(nvml)
    reader.latest(100.0, 5.0)
    until(lambda: reader.fault)
    assert reader.latest(100.0, 5.0) is None
    assert reader.fault is fault
    assert reader.why == f"NVML: what NVML says ({fault.value}); {NEXT_STEPS[fault]}"
    assert nvml.is_closed.wait(10)


def test_a_driver_that_comes_back_is_read_again(reader_of):
    nvml = Broken(NvmlError(Fault.LIBRARY, "being replaced"), 1)
    reader = reader_of(nvml, retry_s=0.001)
    reader.latest(100.0, 5.0)
    until(lambda: reader.fault)
    nvml.after = 1 << 30
    assert until(lambda: reader.latest(100.0, 5.0))
    assert (reader.why, reader.fault) == (None, None)


def test_a_defect_of_ours_is_said_too(reader_of):
    reader = reader_of(Broken(ZeroDivisionError("oops"), 1))
    reader.latest(100.0, 5.0)
    until(lambda: reader.fault)
    assert reader.latest(100.0, 5.0) is None
    assert "ZeroDivisionError: oops" in reader.why


def test_a_blocked_driver_does_not_block_us_and_its_old_answer_expires(reader_of):
    nvml = Blocked()
    reader = reader_of(nvml)
    reader.latest(100.0, 5.0)
    assert nvml.is_blocked.wait(10)
    assert len(reader.latest(104.0, 5.0)) == 1
    assert reader.latest(106.0, 5.0) is None
    why = reader.why
    assert "blocked" in why
    assert reader.latest(107.0, 5.0) is None
    assert reader.why == why, "words that change at every tick would be an event at every tick"
    nvml.release.set()


def test_without_the_library_the_real_nvml_says_so():
    with pytest.raises(NvmlError) as caught:
        pytest.skip("this machine has a driver") if Path("/dev/nvidiactl").exists() else Pynvml().open()
    assert caught.value.fault is Fault.LIBRARY


class Resting(Recording):
    """A card where nobody is, or only a stranger that does nothing; reports a fault once."""

    def __init__(self, processes=()):
        super().__init__("lock")
        self.processes, self.faults = processes, [31]

    def read(self, place, pids, **asks):
        self.asked.append(pids)
        faults, self.faults = tuple(self.faults), []
        return DeviceReading(
            utilization=0.0, dram=0.001, tensor=0.0, pcie_rx=1e4, pcie_tx=3e5, processes=self.processes, xids=faults
        )


def test_a_card_at_rest_teaches_its_floor(reader_of):
    nvml = Resting()
    reader = reader_of(nvml)
    reader.latest(100.0, 5.0)
    seen = until(lambda: [gpu for gpu in reader.latest(100.0, 5.0) or () if gpu.floor_pcie is not None])
    assert (seen[0].floor_pcie, seen[0].floor_dram, seen[0].floor_age_s) == (3.1e5, 0.001, 0)


@pytest.mark.parametrize(("is_host", "processes", "pids"), [(True, ((7, 1 << 30),), {7}), (False, (), {7})])
def test_nothing_is_learned_while_the_job_may_be_on_the_card(reader_of, is_host, processes, pids):
    nvml = Resting(processes)
    reader = reader_of(nvml, is_host=lambda: is_host)
    reader.watch(frozenset(pids))
    reader.latest(100.0, 5.0)
    until(lambda: len(nvml.asked) > 2 * LEAST_READINGS)
    (seen,) = until(lambda: reader.latest(100.0, 5.0))
    assert seen.floor_pcie is None


def test_a_fault_is_taken_once(reader_of):
    nvml = Resting()
    reader = reader_of(nvml)
    reader.latest(100.0, 5.0)
    assert until(reader.take_xids) == ((0, UUID, 31),)
    until(lambda: len(nvml.asked) > 3)
    assert reader.take_xids() == ()


def test_a_card_that_the_jobs_environment_hides_is_not_visible_and_not_ours(reader_of):
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "5"},
    )
    child.stdout.readline()
    reader = reader_of(Recording("lock"), is_host=lambda: False)
    reader.watch(frozenset({child.pid}))
    try:
        (seen,) = until(lambda: reader.latest(100.0, 5.0))
    finally:
        child.communicate(b"\n")
    assert (seen.is_visible, seen.is_ours) == (False, False)
