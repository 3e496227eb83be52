"""The judge on recorded runs of real Unsloth on an H100: the hanging ones are found, the healthy ones are never touched."""

from __future__ import annotations

import gzip

import msgspec
import pytest

from recorded import TRACES, read_trace
from unsloth_watch.judge.memory import Memory
from unsloth_watch.judge.rules import Rules
from unsloth_watch.judge.verdict import judge
from unsloth_watch.model.sample import Sample
from unsloth_watch.model.verdict import State, Verdict

pytestmark = pytest.mark.quick

# Seconds into the recording at which step 30 was printed and the hang began.
HANG_BEGINS = {"lock": 85.0, "spin": 87.0, "busy": 70.0}


def verdicts_of(name: str, stall_s: float) -> list[Verdict]:
    """Judge one recording from its beginning."""
    memory, verdicts = Memory(), []
    rules = Rules(stall_s=stall_s, busy_s=1800.0)
    for sample in read_trace(name):
        memory, verdict = judge(memory, sample, rules)
        verdicts.append(verdict)
    return verdicts


@pytest.mark.parametrize("stall_s", [15.0, 20.0, 60.0, 180.0])
@pytest.mark.parametrize("name", ["healthy", "healthy-4bit"])
def test_a_healthy_run_is_never_called_hung(name: str, stall_s: float) -> None:
    hung = [verdict for verdict in verdicts_of(name, stall_s) if verdict.state is State.HUNG]
    assert hung == []


def test_a_lock_held_by_nobody_is_found_at_the_stall_timeout() -> None:
    verdicts = verdicts_of("lock", 20.0)
    found = next(verdict for verdict in verdicts if verdict.state is State.HUNG)
    assert found.last_progress is not None
    assert found.at - found.last_progress.at == pytest.approx(20.0, abs=4.0)
    assert found.last_progress.at == pytest.approx(HANG_BEGINS["lock"], abs=8)


@pytest.mark.parametrize("name", ["spin", "busy"])
def test_a_spin_behind_a_known_rhythm_is_found_at_twice_the_stall_timeout(name: str) -> None:
    verdicts = verdicts_of(name, 10.0)
    found = next(verdict for verdict in verdicts if verdict.state is State.HUNG)
    assert found.last_progress is not None
    assert found.at - found.last_progress.at == pytest.approx(20.0, abs=12.0)
    assert any("rhythm" in reason for reason in found.reasons)


def test_the_founding_hang_with_a_model_held_in_gpu_memory_is_found() -> None:
    found = next(verdict for verdict in verdicts_of("founding", 10.0) if verdict.state is State.HUNG)
    assert found.quiet_s >= 10.0


@pytest.mark.parametrize("name", ["low-duty", "small-processes"])
def test_a_starved_job_with_fifty_others_on_two_cores_keeps_being_seen_at_work(name: str) -> None:
    with gzip.open(TRACES / f"overloaded-{name}.jsonl.gz") as lines:
        samples = [msgspec.json.decode(line, type=Sample) for line in lines]
    memory, idle_s = Memory(), 0.0
    for sample in samples:
        memory, _ = judge(memory, sample, Rules(stall_s=14.0, busy_s=84.0))
        assert memory.at is not None
        idle_s = max(idle_s, memory.at - memory.effort_at)
    assert samples[-1].at - samples[0].at > 20
    assert idle_s < 14 / 2
