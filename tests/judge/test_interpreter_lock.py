"""A thread that asks for the interpreter lock waits for its holder, and nobody else: seen so, a lock and a mutex in opposite order
are proven; whatever is not seen so is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from unsloth_watch.judge.quiescence import Proof, prove
from unsloth_watch.model.evidence import Evidence, ThreadEvidence
from unsloth_watch.waits.scene import Doubt
from unsloth_watch.waits.wait import Class, classify
from unsloth_watch.waits.want import Aim, read_want

pytestmark = pytest.mark.quick

SURVEYS = Path(__file__).parent.parent / "data" / "surveys"


def read(name: str) -> list[Evidence]:
    return msgspec.json.decode((SURVEYS / f"{name}.json").read_bytes(), type=list[Evidence])


def change(survey: Evidence, is_wanted: Callable[[ThreadEvidence], bool], **changes: Any) -> Evidence:
    """The survey with changes of the threads that are wanted."""
    process = survey.processes[0]
    threads = tuple(msgspec.structs.replace(one, **changes) if is_wanted(one) else one for one in process.threads)
    return msgspec.structs.replace(survey, processes=(msgspec.structs.replace(process, threads=threads),))


def holds(thread: ThreadEvidence) -> bool:
    return thread.has_gil is True


def asks(thread: ThreadEvidence) -> bool:
    return thread.awaits_gil


def test_one_who_asks_waits_for_the_lock_and_not_by_the_clock() -> None:
    process = read("hang_gil_mutex")[-1].processes[0]
    asker = next(thread for thread in process.threads if asks(thread))
    assert classify(asker, process).kind is Class.INTERPRETER
    assert classify(msgspec.structs.replace(asker, awaits_gil=False), process).kind is Class.TIMED
    assert read_want(asker, process).aim is Aim.GIL


NEAR_MISSES: list[tuple[str, Callable[[Evidence], Evidence]]] = [
    ("it waits by another clock", lambda one: change(one, asks, awaits_gil=False)),
    ("nobody is seen to hold the lock", lambda one: change(one, holds, has_gil=None)),
    ("the one who asks is said to hold it, too", lambda one: change(one, asks, has_gil=True)),
    ("the holder sleeps", lambda one: change(one, holds, call="clock_nanosleep", wait="sleeps for 9 s (clock_nanosleep)")),
    (
        "the holder reads from somebody unknown",
        lambda one: change(one, holds, call="read", wait="reads from fd 7 → ?", wait_fds=(7,)),
    ),
    ("the holder waits with a time-out", lambda one: change(one, holds, syscall_args=(4096, 137, 0, 4096, 0, 0))),
    ("the holder runs", lambda one: change(one, holds, state="R")),
    ("the one who asks is elsewhere", lambda one: change(one, asks, frames=())),
    ("the one who asks computes", lambda one: change(one, asks, cpu_s=9.0)),
]


@pytest.mark.parametrize(("why", "miss"), NEAR_MISSES, ids=[why for why, _ in NEAR_MISSES])
def test_a_near_miss_is_not_proven(why: str, miss: Callable[[Evidence], Evidence]) -> None:
    surveys = read("hang_gil_mutex")
    assert isinstance(prove(surveys, is_gpu_idle=True), Proof)
    assert isinstance(prove([*surveys[:-1], miss(surveys[-1])], is_gpu_idle=True), Doubt), why


def test_a_lock_that_changed_hands_between_the_surveys_is_no_dead_one() -> None:
    first, *_, last = read("hang_gil_mutex")
    other = change(change(first, holds, has_gil=None), asks, has_gil=True)
    assert isinstance(prove([other, last], is_gpu_idle=True), Doubt)


def test_a_holder_that_woke_between_the_surveys_may_have_let_go() -> None:
    first, *_, last = read("hang_gil_mutex")
    woken = change(first, holds, vctx=0)
    assert isinstance(prove([woken, last], is_gpu_idle=True), Doubt)


def test_one_who_did_not_ask_at_the_first_survey_has_not_been_seen_to_ask_in_vain() -> None:
    first, *_, last = read("hang_gil_mutex")
    assert isinstance(prove([change(first, asks, awaits_gil=False), last], is_gpu_idle=True), Doubt)
