"""What the bench says of the recorded runs on an H100: each rule by its word, a hang at its own moment, and nobody blamed for an end."""

from __future__ import annotations

import gzip
import importlib
import json
import sys
from pathlib import Path

import pytest

from recorded import TRACES

pytestmark = pytest.mark.quick

BENCH = Path(__file__).parent.parent / "scripts" / "bench"


@pytest.fixture(scope="module")
def bench():
    before = list(sys.path)
    sys.path.insert(0, str(BENCH))
    try:
        yield importlib.import_module("recordings")
    finally:
        sys.path[:] = before


@pytest.fixture(scope="module")
def cases(bench):
    return {case.name: case for case in bench.read_cases()}


@pytest.fixture(scope="module")
def contestants(bench):
    return {one.name: one for one in bench.list_contestants()}


def verdict(bench, contestants, case, name: str) -> str:
    return bench.ask(contestants[name], case)[0].verdict


def test_the_hang_of_a_trace_begins_where_its_job_says_so(cases) -> None:
    for name in ("lock", "spin", "busy", "founding"):
        with gzip.open(TRACES / f"unsloth-h100-{name}.jsonl.gz", "rt") as stream:
            said = next(row["t"] for row in map(json.loads, stream) if "HANG" in row["last"])
        assert cases[f"{name}, trace"].moment == said


def test_an_attempt_hangs_if_its_job_was_told_to(cases) -> None:
    assert cases["lock, attempt 1"].moment is not None
    assert cases["lock, attempt 2"].moment is None
    assert all(case.moment is None for name, case in cases.items() if name.startswith("healthy"))


def test_a_rule_about_the_gpu_ends_a_healthy_run_while_it_loads_and_the_judge_does_not(bench, cases, contestants) -> None:
    healthy = cases["healthy, trace"]
    assert verdict(bench, contestants, healthy, "GPU < 5 %, 20 s") == "false kill"
    assert verdict(bench, contestants, healthy, "unsloth-watch, 20 s") == "ok"
    assert verdict(bench, contestants, cases["lock, trace"], "GPU < 5 %, 20 s") == "premature"


def test_a_lock_is_found_by_everybody_who_has_waited_for_the_work_to_begin(bench, cases, contestants) -> None:
    for name in ("unsloth-watch, 20 s", "no output, 20 s", "GPU < 5 %, 20 s, once used"):
        assert verdict(bench, contestants, cases["lock, trace"], name) == "found"


def test_a_kernel_that_never_ends_is_missed_by_a_rule_about_the_gpu(bench, cases, contestants) -> None:
    assert verdict(bench, contestants, cases["spin, attempt 1"], "GPU < 5 %, 20 s, once used") == "missed"


def test_nobody_has_missed_a_hang_whose_recording_ended_before_their_time(bench, cases, contestants) -> None:
    # The supervisor ended this one after some seconds, because it was proven.
    assert verdict(bench, contestants, cases["lock, attempt 1"], "no output, 20 s") == "cut short"
    total = bench.sum_up([bench.Opinion("cut short"), bench.Opinion("found", 20.0), bench.Opinion("missed")])
    assert (total["hangs"], total["found"], total["cut_short"]) == (2, 1, 1)
