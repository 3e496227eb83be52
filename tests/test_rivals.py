"""What the bench says for others: rules of thumb applied to recorded samples, and the sums of it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import msgspec
import pytest

from scenario import sample
from unsloth_watch.model.sample import GpuSample, OutputSample
from unsloth_watch.tell.redact import Redactor
from unsloth_watch.tell.samples import SampleLog

pytestmark = pytest.mark.quick

SCRIPT = Path(__file__).parent.parent / "scripts" / "bench" / "rivals.py"


@pytest.fixture(scope="module")
def rivals():
    spec = importlib.util.spec_from_file_location("bench_rivals", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def printing(until: int, seconds: int = 30):
    return [sample(float(at), output=OutputSample(min(at, until) * 10, min(at, until))) for at in range(seconds)]


def using(*percents: float | None):
    return [sample(float(at), gpus=(GpuSample(0, "g", percent),)) for at, percent in enumerate(percents)]


def test_silence_is_called_when_nothing_was_printed_for_so_long(rivals) -> None:
    assert rivals.find_silence(printing(12), 10.0) == 22.0
    assert rivals.find_silence(printing(99), 10.0) is None
    # From the start on: who prints nothing at all is killed as soon as it can be.
    assert rivals.find_silence(printing(0), 10.0) == 10.0


def test_output_that_is_not_seen_is_no_silence_that_has_begun_anew(rivals) -> None:
    unseen = [msgspec.structs.replace(one, output=None) if one.at > 12 else one for one in printing(99)]
    assert rivals.find_silence(unseen, 10.0) == 22.0


def test_an_idle_gpu_is_called_when_it_was_idle_for_so_long_without_a_break(rivals) -> None:
    assert rivals.find_idle_gpu(using(*[90.0] * 5, *[4.9] * 12), 10.0) == 15.0
    assert rivals.find_idle_gpu(using(*[0.0] * 8, 5.0, *[0.0] * 8), 10.0) is None
    assert rivals.find_idle_gpu(using(*[0.0] * 8, None, *[0.0] * 8), 10.0) is None
    assert rivals.find_idle_gpu([sample(float(at)) for at in range(30)], 10.0) is None


def test_a_rule_may_have_another_line_and_wait_for_the_first_use(rivals) -> None:
    assert rivals.find_idle_gpu(using(*[2.0] * 12, *[0.0] * 12), 10.0, percent=1.0) == 22.0
    assert rivals.find_idle_gpu(using(*[0.0] * 12, 50.0, *[0.0] * 12), 10.0, is_armed_by_use=True) == 23.0
    assert rivals.find_idle_gpu(using(*[0.0] * 30), 10.0, is_armed_by_use=True) is None


def test_an_opinion_is_right_early_or_wrong(rivals) -> None:
    assert rivals.opinion_of(is_hang=True, fired_at=15.0, moment=12.0) == rivals.Opinion("found", 3.0)
    assert rivals.opinion_of(is_hang=True, fired_at=11.0, moment=12.0).verdict == "premature"
    assert rivals.opinion_of(is_hang=True, fired_at=None, moment=12.0).verdict == "missed"
    assert rivals.opinion_of(is_hang=False, fired_at=11.0, moment=None).verdict == "false kill"
    assert rivals.opinion_of(is_hang=False, fired_at=None, moment=None).verdict == "ok"


def test_a_rule_that_cannot_be_asked_has_no_opinion_and_no_part_in_the_sums(rivals, tmp_path) -> None:
    log = SampleLog(str(tmp_path / "samples.jsonl"), Redactor({}))
    for one in printing(12):
        log.append(one)
    log.close()
    said = rivals.ask_rules(tmp_path / "samples.jsonl", 10.0, is_hang=True, moment=12.5)
    assert said == {"no output": rivals.Opinion("found", 9.5), "GPU < 5 %": rivals.Opinion("-")}
    nothing = rivals.ask_rules(tmp_path / "none.jsonl", 10.0, is_hang=True, moment=12.5)
    assert {one.verdict for one in nothing.values()} == {"-"}
    totals = rivals.summarize_rivals([(True, said), (True, nothing), (False, {"no output": rivals.Opinion("false kill")})])
    assert totals == {
        "no output": {
            "found": 1,
            "premature": 0,
            "hangs": 1,
            "latency_median_s": 9.5,
            "latency_slowest_s": 9.5,
            "false_kills": 1,
            "healthy": 1,
        }
    }
    assert list(rivals.describe_totals(totals)) == [
        "no output                    found 1 of 1, 0 too early, latency 9.5 s (slowest 9.5 s); false kills 1 of 1"
    ]
