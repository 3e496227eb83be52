"""What a job is doing, in one sentence, from looks and samples alone."""

from __future__ import annotations

import pytest

from unsloth_watch.model.process import ProcessRef, ProcessSample
from unsloth_watch.model.sample import Look, Sample
from unsloth_watch.supervise.activity import describe_activity, measure_shares

pytestmark = pytest.mark.quick

ROOT, WORKER = ProcessRef(10, 1), ProcessRef(11, 2)
STEP = Look(WORKER, "aa", ("matmul (/opt/lib/python3.11/site-packages/numpy/core.py:9)", "step (/home/user/job/train.py:88)"), True)
LOAD = Look(WORKER, "bb", ("load (/home/user/job/train.py:12)",), True)
WAIT = Look(ROOT, "cc", ("join (/opt/lib/python3.11/threading.py:1)", "main (/home/user/job/train.py:99)"), False)


def sample(at: float, root_s: float, worker_s: float) -> Sample:
    return Sample(at, at, tuple(_process(ref, used) for ref, used in ((ROOT, root_s), (WORKER, worker_s))))


def _process(ref: ProcessRef, used: float) -> ProcessSample:
    return ProcessSample(ref, 1, "python", "R", used, 0.0, 0.0, 0, 0, 0, 1, 1 << 20)


def test_the_busiest_process_is_named_with_its_share_and_its_own_most_frequent_line():
    said = describe_activity((WAIT, STEP, LOAD, STEP), (sample(0, 0, 0), sample(4, 0, 3.8)), "train")
    assert said == "phase train; PID 11 used 95% of a core, most often in step (/home/user/job/train.py:88)"


def test_a_job_in_which_nobody_computes_says_where_its_main_thread_is():
    said = describe_activity((WAIT,), (sample(0, 1, 1), sample(4, 1, 1)), "unknown")
    assert said == "nobody computes; the main thread is in main (/home/user/job/train.py:99)"


def test_others_that_compute_are_counted():
    assert "1 more process computes" in describe_activity((STEP,), (sample(0, 0, 0), sample(4, 1, 3)), "unknown")


def test_without_two_samples_nothing_is_measured():
    assert measure_shares((sample(0, 0, 0),)) == {}
    assert describe_activity((), (), "unknown") == "nobody computes"
