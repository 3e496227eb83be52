"""Counters of a log that never says the same twice: remembered as far as they may help, and no further."""

from __future__ import annotations

import pytest

from unsloth_watch.judge.rules import MOST_COUNTERS
from unsloth_watch.judge.work import WorkMemory, weigh_readings
from unsloth_watch.model.sample import Reading
from unsloth_watch.model.verdict import Progress, Tier

pytestmark = pytest.mark.quick
STEP = "step"


def feed(memory: WorkMemory, step: int, noise: int) -> tuple[WorkMemory, list[Progress]]:
    """Return the memory after one step, and lines that each name another file."""
    lines = tuple(Reading(f"{step}-{number}", "records", 1.0, 2.0) for number in range(noise))
    return weigh_readings(memory, (Reading("s", STEP, float(step), 9.0), *lines), float(step), float(step - 1))


def test_a_log_that_names_another_file_in_each_line_does_not_grow_the_memory_and_hides_no_step() -> None:
    memory = WorkMemory()
    for step in range(1, 10):
        memory, found = feed(memory, step, MOST_COUNTERS // 2)
        assert len(memory.counters) <= MOST_COUNTERS
        steps = [one for one in found if one.tier is Tier.WORK]
        assert bool(steps) is (step > 1)


def test_steps_that_came_together_are_told_as_one_advance_to_the_newest() -> None:
    memory, _ = weigh_readings(WorkMemory(), (Reading("s", STEP, 5.0, 100.0),), 1.0, 0.0)
    noise = tuple(Reading(f"{number}", "records", 1.0, 2.0) for number in range(2 * MOST_COUNTERS))
    steps = tuple(Reading("s", STEP, float(step), 100.0) for step in (6, 7, 8))
    _, found = weigh_readings(memory, (*steps, *noise), 2.0, 1.0)
    assert [one.detail for one in found if one.tier is Tier.WORK] == ["step 5 → 8 of 100"]
