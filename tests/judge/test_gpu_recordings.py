"""The judge on samples that the program itself took of real Unsloth on an H100 80GB HBM3 (driver 580.159.04)."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from unsloth_watch.judge.inquiry import is_gpu_idle
from unsloth_watch.judge.memory import Memory
from unsloth_watch.judge.quiescence import Proof, prove
from unsloth_watch.judge.rules import Rules
from unsloth_watch.judge.verdict import judge
from unsloth_watch.model.evidence import Evidence
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.model.sample import GpuSample, OutputSample, Sample
from unsloth_watch.model.verdict import State, Verdict

DATA = Path(__file__).parents[1] / "data" / "gpu"
HEALTHY = sorted(path.name.split(".")[0] for path in (DATA / "runs").glob("healthy*"))
pytestmark = pytest.mark.quick


def read_run(name: str) -> Iterator[Sample]:
    with gzip.open(DATA / "runs" / f"{name}.jsonl.gz", "rb") as file:
        yield from (msgspec.json.decode(line, type=Sample) for line in file)


def read_capture(name: str) -> Evidence:
    with gzip.open(DATA / "captures" / f"{name}.json.gz", "rb") as file:
        return msgspec.json.decode(file.read(), type=Evidence)


def judge_run(name: str, stall_s: float) -> list[Verdict]:
    """Return the verdicts on the first attempt: a later one has a clock of its own."""
    memory, verdicts = Memory(), []
    root: ProcessRef | None = None
    for sample in read_run(name):
        first = min((process.ref for process in sample.processes or ()), default=None)
        root = root or first
        if root is not None and sample.processes and root not in {process.ref for process in sample.processes}:
            break
        memory, verdict = judge(memory, sample, Rules(stall_s=stall_s, busy_s=1800.0))
        verdicts.append(verdict)
    return verdicts


@pytest.mark.parametrize("stall_s", [15.0, 20.0, 60.0])
@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_fine_tune_is_never_called_hung(name: str, stall_s: float) -> None:
    assert [verdict for verdict in judge_run(name, stall_s) if verdict.state is State.HUNG] == []


def test_a_lock_that_nobody_frees_is_proven_long_before_the_stall_timeout() -> None:
    found = next(verdict for verdict in judge_run("lock", 20.0) if verdict.state is State.HUNG)
    assert found.is_proven
    assert found.quiet_s < 10.0


def test_the_founding_hang_with_20_gb_held_is_found_at_the_stall_timeout_while_another_job_trains_on_the_card() -> None:
    found = next(verdict for verdict in judge_run("founding", 20.0) if verdict.state is State.HUNG)
    assert found.last_progress is not None
    assert found.at - found.last_progress.at == pytest.approx(20.0, abs=1.5)


@pytest.mark.parametrize("name", ["spin", "busy"])
def test_a_spin_is_found_at_twice_the_stall_timeout_as_its_rhythm_broke(name: str) -> None:
    found = next(verdict for verdict in judge_run(name, 20.0) if verdict.state is State.HUNG)
    assert 39.0 <= found.quiet_s <= 42.0
    assert any("rhythm" in reason for reason in found.reasons)


def test_a_lock_that_nobody_frees_is_proven_though_the_drivers_own_threads_poll() -> None:
    lock = read_capture("lock")
    later = [msgspec.structs.replace(lock, at=lock.at + seconds) for seconds in (0.0, 3.0, 6.0)]
    proof = prove(later, is_gpu_idle=True)
    assert isinstance(proof, Proof), proof
    assert any("cuda00001400006" in step for step in proof.steps)


def test_the_drivers_threads_are_no_harmless_ones_while_the_device_works() -> None:
    lock = read_capture("lock")
    later = [msgspec.structs.replace(lock, at=lock.at + seconds) for seconds in (0.0, 3.0, 6.0)]
    assert not isinstance(prove(later, is_gpu_idle=False), Proof)


def idle(**changes: object) -> GpuSample:
    plain = GpuSample(0, "GPU-1", 0.0, dram=0.0006, tensor=0.0, pcie_rx=8e3, pcie_tx=2.5e5, own_memory_bytes=1 << 30)
    return msgspec.structs.replace(plain, **changes)


@pytest.mark.parametrize(
    ("gpu", "is_idle"),
    [
        (idle(), True),
        (idle(utilization=100.0), False),
        (idle(tensor=6.7), False),
        (idle(utilization=None), False),
        (idle(utilization=100.0, own_memory_bytes=0), True),
        (idle(utilization=100.0, own_memory_bytes=None), False),
        (idle(utilization=100.0, own_memory_bytes=None, is_visible=False), True),
    ],
)
def test_a_device_is_idle_when_nothing_of_ours_can_run_on_it(gpu: GpuSample, is_idle: bool) -> None:
    assert is_gpu_idle(Sample(1.0, 1.0, None, gpus=(gpu,))) is is_idle


def verdict_of(*gpus: GpuSample) -> Verdict:
    """Judge 40 samples of a job that does nothing but show these devices."""
    memory = Memory()
    busy = next(sample for sample in read_run("lock") if sample.processes)
    still = tuple(msgspec.structs.replace(process, state="S", thread_states=None) for process in busy.processes or ())
    for at in range(41):
        sample = Sample(float(at), float(at), still, output=OutputSample(0, 0), files=(), gpus=gpus)
        memory, verdict = judge(memory, sample, Rules(stall_s=20.0, busy_s=1800.0))
    return verdict


@pytest.mark.parametrize(
    ("gpu", "state"),
    [
        (idle(dram=0.9, tensor=1.2), State.PROGRESSING),
        (idle(dram=0.9, floor_dram=0.8), State.HUNG),
        (idle(pcie_rx=5e6), State.PROGRESSING),
        (idle(pcie_rx=5e6, floor_pcie=4e6), State.HUNG),
        (idle(dram=30.0, is_shared=True, own_utilization=0.0), State.HUNG),
        (idle(dram=30.0, own_memory_bytes=0), State.HUNG),
        (idle(dram=30.0, own_memory_bytes=None, is_visible=False), State.HUNG),
        (idle(utilization=50.0, is_shared=True, own_utilization=30.0), State.COMPUTING),
        (idle(utilization=50.0, is_shared=True, own_memory_bytes=None), State.COMPUTING),
    ],
)
def test_traffic_counts_above_the_floor_and_where_it_is_ours(gpu: GpuSample, state: State) -> None:
    assert verdict_of(gpu).state is state


def test_one_reading_in_several_samples_is_progress_once() -> None:
    still = tuple(
        msgspec.structs.replace(process, state="S", thread_states=None) for process in next(read_run("lock")).processes or ()
    )
    memory, moved = Memory(), []
    for at in range(8):
        gpu = idle(tensor=5.0, read_at=float(at - at % 4))
        sample = Sample(float(at), float(at), still, output=OutputSample(0, 0), files=(), gpus=(gpu,))
        memory, _ = judge(memory, sample, Rules(stall_s=20.0, busy_s=1800.0))
        moved.append(memory.progress_at)
    assert moved == [0.0, 0.0, 0.0, 0.0, 4.0, 4.0, 4.0, 4.0]
