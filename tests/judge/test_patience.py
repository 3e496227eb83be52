"""Patience afresh after a repair: a full stall timeout more, on known ground, and an echo is no movement."""

from __future__ import annotations

import pytest

from scenario import process, reading, sample
from unsloth_watch.judge.memory import Memory
from unsloth_watch.judge.patience import ECHO_S, find_movement, renew
from unsloth_watch.judge.rules import Rules
from unsloth_watch.judge.verdict import judge
from unsloth_watch.model.sample import FileSample, Sample
from unsloth_watch.model.verdict import State

pytestmark = pytest.mark.quick

RULES = Rules(stall_s=10.0, busy_s=60.0)


def watch(memory: Memory, *samples: Sample) -> tuple[Memory, State]:
    state = State.STARTING
    for one in samples:
        memory, verdict = judge(memory, one, RULES)
        state = verdict.state
    return memory, state


def hung() -> Memory:
    memory, state = watch(Memory(), *(sample(float(at)) for at in range(12)))
    assert state is State.HUNG
    return memory


def test_silence_is_counted_from_the_repair_and_the_same_silence_is_a_hang_again() -> None:
    memory = renew(hung())
    memory, state = watch(memory, *(sample(float(at)) for at in range(12, 20)))
    assert state is not State.HUNG
    assert find_movement(memory, 11.0) is None
    _, state = watch(memory, sample(20.0), sample(21.0))
    assert state is State.HUNG


def test_ground_that_was_known_before_the_repair_is_no_movement() -> None:
    known = FileSample(1, 2, "/job/cache/tiny.py", 12288, 12288, False)
    memory, _ = watch(Memory(), *(sample(float(at), process(), files=(known,)) for at in range(12)))
    again = [FileSample(1, 2, "/job/cache/tiny.py", 4096 * (at % 3), 12288, False) for at in range(12, 18)]
    memory, _ = watch(
        renew(memory), *(sample(float(at), process(), files=(one,)) for at, one in zip(range(12, 18), again, strict=True))
    )
    assert find_movement(memory, 11.0) is None


@pytest.mark.parametrize(("after_s", "is_movement"), [(1.0, False), (ECHO_S + 1, True)])
def test_a_new_line_right_after_the_repair_is_its_echo(after_s: float, is_movement: bool) -> None:
    memory = renew(hung())
    memory, _ = watch(memory, sample(11.0 + after_s, output=reading(1.0, shape="a line of a new kind")))
    assert memory.progress is not None
    assert (find_movement(memory, 11.0) is not None) is is_movement
