"""A survey that met a known loop awake says nothing: earlier ones still count. One that met anything else awake still speaks against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from unsloth_watch.judge.blur import settle
from unsloth_watch.judge.inquiry import Inquiry, weigh_surveys
from unsloth_watch.judge.quiescence import prove
from unsloth_watch.model.evidence import Evidence, Frame, ThreadEvidence
from unsloth_watch.model.sample import Sample
from unsloth_watch.waits.scene import Doubt

pytestmark = pytest.mark.quick

SURVEYS = Path(__file__).parent.parent / "data" / "surveys"
UNPICKLING = Frame("loads", "/usr/lib/python3.11/pickle.py", 243)
DRAWING = Frame("step", "/project/train.py", 7)


def read(name: str) -> list[Evidence]:
    return msgspec.json.decode((SURVEYS / f"{name}.json").read_bytes(), type=list[Evidence])


def main_of(survey: Evidence) -> ThreadEvidence:
    return next(process.threads[0] for process in survey.processes if process.ref == survey.root)


def change_main(survey: Evidence, **changes: Any) -> Evidence:
    """The survey with changes of the command's main thread."""
    processes = tuple(
        msgspec.structs.replace(one, threads=(msgspec.structs.replace(one.threads[0], **changes), *one.threads[1:]))
        if one.ref == survey.root
        else one
        for one in survey.processes
    )
    return msgspec.structs.replace(survey, processes=processes)


def awake_in_loop(survey: Evidence) -> Evidence:
    return change_main(survey, state="R", call=None, wait=None, frames=(UNPICKLING, *main_of(survey).frames))


def away_from_loop(survey: Evidence) -> Evidence:
    frames = main_of(survey).frames
    depth = next(depth for depth, frame in enumerate(frames) if frame.function.endswith("_try_get_data"))
    return change_main(survey, state="R", call=None, wait=None, frames=(DRAWING, *frames[depth + 1 :]))


def weigh(surveys: list[Evidence]) -> Inquiry:
    """What the judge knows after these surveys, each in a sample of its own."""
    inquiry = Inquiry()
    for survey in surveys:
        sample = Sample(at=survey.at, wall=survey.at, processes=(), surveys=(survey,))
        inquiry = weigh_surveys(inquiry, sample, survey.at, is_moving=False, core=0.0)
    return inquiry


def test_a_loop_that_was_awake_does_not_discard_the_surveys_before() -> None:
    first, second, third, last = read("hang_dataloader_worker_stuck")
    found = prove([first, awake_in_loop(second)], is_gpu_idle=True)
    assert isinstance(found, Doubt)
    assert found.is_blurred
    assert not found.is_open
    inquiry = weigh([first, awake_in_loop(second), third])
    assert inquiry.surveys == (first, third)
    assert weigh([first, awake_in_loop(second), third, last]).proof


def test_a_blurred_survey_is_none_of_those_that_a_proof_takes() -> None:
    first, second, third, last = read("hang_dataloader_worker_stuck")
    assert not weigh([first, awake_in_loop(second), awake_in_loop(third), last]).proof
    assert not weigh([first, second, awake_in_loop(third)]).proof
    assert weigh([first, second, third]).proof


def test_one_who_left_the_loop_discards_the_surveys_before() -> None:
    first, second, third, last = read("hang_dataloader_worker_stuck")
    found = prove([first, away_from_loop(second)], is_gpu_idle=True)
    assert isinstance(found, Doubt)
    assert not found.is_blurred
    assert not weigh([first, away_from_loop(second), third, last]).proof


def test_a_loop_awake_for_another_caller_discards_the_surveys_before() -> None:
    first, second, *_ = read("hang_dataloader_worker_stuck")
    frames = main_of(second).frames
    elsewhere = (*frames[:-1], msgspec.structs.replace(frames[-1], line=frames[-1].line + 1))
    found = prove([first, change_main(awake_in_loop(second), frames=(UNPICKLING, *elsewhere))], is_gpu_idle=True)
    assert isinstance(found, Doubt)
    assert not found.is_blurred


def test_whatever_else_is_seen_at_that_moment_still_counts() -> None:
    first, second, *_ = read("hang_dataloader_worker_stuck")
    traced = tuple(msgspec.structs.replace(one, tracer_pid=1) for one in awake_in_loop(second).processes)
    found = prove([first, msgspec.structs.replace(second, processes=traced)], is_gpu_idle=True)
    assert isinstance(found, Doubt)
    assert not found.is_blurred


def test_one_who_asks_for_the_interpreter_lock_may_be_met_awake_at_the_same_place_only() -> None:
    first, second, *_ = read("hang_gil_mutex")

    def wake(**changes: Any) -> Evidence:
        process = second.processes[0]
        threads = tuple(
            msgspec.structs.replace(one, state="R", call=None, wait=None, awaits_gil=False, **changes) if one.awaits_gil else one
            for one in process.threads
        )
        return msgspec.structs.replace(second, processes=(msgspec.structs.replace(process, threads=threads),))

    met = prove([first, wake()], is_gpu_idle=True)
    assert isinstance(met, Doubt)
    assert met.is_blurred
    gone = prove([first, wake(frames=(DRAWING,))], is_gpu_idle=True)
    assert isinstance(gone, Doubt)
    assert not gone.is_blurred


@pytest.mark.parametrize("name", sorted(path.stem for path in SURVEYS.glob("healthy_*.json")))
def test_no_healthy_job_is_proven_however_its_surveys_are_weighed(name: str) -> None:
    surveys = read(name)
    assert not any(weigh(surveys[start:]).proof for start in range(len(surveys)))


def test_nobody_awake_in_a_loop_is_nothing_to_settle() -> None:
    first, second, *_ = read("hang_abba")
    assert settle(first, second) is None
