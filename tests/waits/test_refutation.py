"""Somebody who spoils every proof alone: wherever one is found among a few, the whole survey comes to no proof either."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from unsloth_watch.judge.quiescence import prove
from unsloth_watch.model.evidence import Evidence, Frame, ProcessEvidence, ThreadEvidence
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.waits.refutation import find_refutation
from unsloth_watch.waits.scene import Doubt, Scene
from unsloth_watch.waits.trace import trace

pytestmark = pytest.mark.quick

SURVEYS = sorted((Path(__file__).parent.parent / "data" / "surveys").glob("*.json"))
ROOT, OTHER = ProcessRef(10, 1), ProcessRef(11, 1)
SIGINT = 1 << 1
SLEEP = ThreadEvidence(11, "MainThread", is_main=True, state="S", call="clock_nanosleep", wait="sleeps", vctx=1, cpu_s=0.0)
PLACE = (Frame("work", "/project/train.py", 5),)


def job(other: ThreadEvidence, handled: int, **more: object) -> Scene:
    wait = ThreadEvidence(
        10, "MainThread", is_main=True, state="S", call="wait4", syscall_args=(11,), wait="waits", vctx=1, cpu_s=0.0
    )
    root = ProcessEvidence(ROOT, 1, threads=(wait,), descriptors=(), signals_caught=handled, has_timers=False)
    child = ProcessEvidence(OTHER, 10, threads=(other,), descriptors=(), signals_caught=0, has_timers=False)
    return Scene(Evidence(0.0, 0.0, (root, msgspec.structs.replace(child, **more)), ROOT), is_gpu_idle=True, is_strict=True)


@pytest.mark.parametrize("path", SURVEYS, ids=[path.stem for path in SURVEYS])
def test_what_refutes_alone_refutes_in_every_recorded_survey(path: Path) -> None:
    for survey in msgspec.json.decode(path.read_bytes(), type=list[Evidence]):
        assert survey.root is not None
        root = [process for process in survey.processes if process.ref == survey.root]
        for process in survey.processes:
            few = msgspec.structs.replace(survey, processes=(*root, *([process] if process not in root else [])))
            if find_refutation(Scene(few, is_gpu_idle=True), survey.root) is not None:
                assert isinstance(trace(Scene(survey, is_gpu_idle=True, is_strict=True)), Doubt)


def test_the_recordings_hold_such_a_one() -> None:
    surveys = msgspec.json.decode((SURVEYS[0].parent / "healthy_clock_child.json").read_bytes(), type=list[Evidence])
    assert any(one.root and find_refutation(Scene(one, is_gpu_idle=True), one.root) for one in surveys)


def test_who_sleeps_without_a_known_stack_refutes_whatever_the_command_handles() -> None:
    assert find_refutation(job(SLEEP, 0), ROOT) is not None
    assert isinstance(trace(job(SLEEP, 0)), Doubt)


def test_who_sleeps_at_a_known_place_refutes_where_a_signal_could_end_the_commands_wait() -> None:
    sleeper = msgspec.structs.replace(SLEEP, frames=PLACE)
    assert find_refutation(job(sleeper, SIGINT), ROOT) is not None
    assert find_refutation(job(sleeper, 0), ROOT) is None


@pytest.mark.parametrize(
    "more",
    [
        {"executable": "/usr/bin/nvidia-smi"},
        {"missing": ("stack of PID 11: no time was left for it",)},
        {"threads": (msgspec.structs.replace(SLEEP, state="R", call=None),)},
        {"threads": (msgspec.structs.replace(SLEEP, call="futex", wait="futex wait, no timeout"),)},
        {"threads": (msgspec.structs.replace(SLEEP, frames=(Frame("run", "/lib/tqdm/_monitor.py", 60),)),)},
        {
            "threads": (
                msgspec.structs.replace(SLEEP, frames=(*PLACE, Frame("iflatmap_unordered", "/x/datasets/utils/py_utils.py", 9))),
            )
        },
        {"threads": (msgspec.structs.replace(SLEEP, frames=PLACE, is_main=False, is_pulse=True),)},
    ],
    ids=["a helper", "unread", "awake", "waits for others", "a monitor", "something within a known loop", "a pulse"],
)
def test_who_may_be_left_out_of_a_proof_refutes_none(more: dict[str, object]) -> None:
    assert find_refutation(job(SLEEP, SIGINT, **more), ROOT) is None


def test_without_the_command_itself_nothing_is_refuted() -> None:
    assert find_refutation(job(SLEEP, SIGINT), ProcessRef(12, 1)) is None


def test_a_survey_that_was_refuted_says_so_and_proves_nothing() -> None:
    survey = Evidence(0.0, 0.0, (), ROOT, refuted="PID 11 thread MainThread, of the same job: sleeps")
    found = prove([survey, msgspec.structs.replace(survey, at=5.0)], is_gpu_idle=True)
    assert found == Doubt(survey.refuted)
