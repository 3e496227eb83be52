"""Lines whose number has no name: the round of xgboost counts, what swings, tells the time or lists devices does not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scenario import hung_at, sample
from unsloth_watch.judge.rules import Rules
from unsloth_watch.judge.work import WorkMemory, weigh_readings
from unsloth_watch.model.sample import OutputSample, Sample
from unsloth_watch.sense.line import read_line

pytestmark = pytest.mark.quick


def when_counted(lines: Iterator[tuple[float, str]] | list[tuple[float, str]]) -> list[float]:
    """Return when a line of a known kind counted as work."""
    memory, found = WorkMemory(), []
    for at, text in lines:
        memory, progress = weigh_readings(memory, read_line(text), at, at - 1)
        if any(one.kind == "counter" for one in progress):
            found.append(at)
    return found


COUNTED = {
    "xgboost": "[{}]\ttrain-rmse:0.53\tvalid-rmse:0.61",
    "xgboost's error": "[{}]\ttrain-error:0.25\tvalid-error:0.31",
    "lightgbm": "[{}]\tvalid_0's l2: 0.53",
    "catboost": "{}:\tlearn: 0.5397168\ttotal: 8.4s\tremaining: 3m 53s",
    "fastai": "{}         0.339717  0.473689  0.800077  00:12",
    "stable-baselines3": "|    iterations      | {}    |",
    "a table": "│ {} │ 1.33 │ 67 │",
    "another language": "第{}轮 损失 1.33",
    "a file of many": "wrote part_{}.parquet",
    "no words": "{}",
    "a comma-separated row": "{},1.33972,2.67943",
}


@pytest.mark.parametrize("name", COUNTED)
def test_the_index_of_a_row_counts_from_the_second_row_on(name: str) -> None:
    assert when_counted([(7.0 * number, COUNTED[name].format(number)) for number in range(1, 40)]) == [
        7.0 * n for n in range(2, 40)
    ]


def test_an_index_that_goes_on_in_leaps_counts_once_it_has_risen_three_times() -> None:
    assert when_counted([(7.0 * n, f"0    {200 * n}    12.3   0.6") for n in range(6)]) == [21.0, 28.0, 35.0]


def test_rows_that_begin_again_after_a_while_count_again() -> None:
    assert when_counted([(7.0 * n, f"[{n % 5}]\ttrain-rmse:0.53") for n in range(10)]) == [
        7.0 * n for n in (1, 2, 3, 4, 6, 7, 8, 9)
    ]


def test_a_counter_without_a_total_that_begins_again_counts_again() -> None:
    assert when_counted([(7.0 * n, f"batch {n % 6} done") for n in range(12)]) == [
        7.0 * n for n in (1, 2, 3, 4, 5, 7, 8, 9, 10, 11)
    ]


@pytest.mark.parametrize("name", ["batch", "train/batch_idx", "mb1", "samples", "segment"])
def test_a_named_number_that_goes_through_its_values_again_counts_again(name: str) -> None:
    assert when_counted([(7.0 * n, f"{name}={n % 6}") for n in range(12)]) == [7.0 * n for n in (1, 2, 3, 4, 5, 7, 8, 9, 10, 11)]


@pytest.mark.parametrize("name", ["[gc] objects", "queue", "conns"])
def test_a_named_number_that_only_rises_and_falls_counts_no_more_than_once(name: str) -> None:
    assert max(when_counted([(7.0 * n, f"{name}={n % 6}") for n in range(60)])) == 35.0


@pytest.mark.parametrize("text", ["load is {} here", "active={}"])
def test_what_swings_soon_counts_no_more(text: str) -> None:
    def wave(n: int) -> int:
        return 40 + abs(n % 12 - 6)

    assert max(when_counted([(7.0 * n, text.format(wave(n))) for n in range(200)]), default=0.0) < 7.0 * 12


def test_a_job_that_prints_a_row_now_and_then_is_never_taken_for_hung() -> None:
    def boosting(at: float) -> Sample:
        return sample(at, output=OutputSample(0, 0, read_line(f"[{at // 9:.0f}]\ttrain-rmse:{1 / (1 + at):.4f}")))

    assert hung_at(boosting, 300) is None


NOT_COUNTED = {
    "a heartbeat": "beat {}",
    "a wait": "[{}] still waiting for the lock",
    "a failed attempt": "#{} failed: connection refused",
    "an error": "[{}] HTTP error 503, again",
    "a thread": "Thread-{} says hello",
    "a worker of a pool": "[ForkPoolWorker-{}] hello",
    "a task": "Task-{} says hello",
    "a worker": "worker-{} says hello",
    "one that died": "child #{} was killed",
    "one that is checked": "checking peer [{}]",
    "a process": "process {} says hello",
    "a place": "localhost:{} says hello",
    "a long id": "17640120{:04d} says hello",
    "a time": "{} seconds",
}


@pytest.mark.parametrize("name", NOT_COUNTED)
def test_what_grows_while_nothing_gets_done_does_not_count(name: str) -> None:
    assert when_counted([(7.0 * number, NOT_COUNTED[name].format(number)) for number in range(1, 20)]) == []


@pytest.mark.parametrize(
    "text", ["20261124-{0:06d} hello", "20261124 {0:06d} hello", "[241124 {0:06d}] hello", "{1:02d}h{2:02d} hello"]
)
def test_a_time_without_signs_is_no_index(text: str) -> None:
    def clock(at: int) -> tuple[int, int, int]:
        return at // 3600 * 10000 + at % 3600 // 60 * 100 + at % 60, at // 3600, at % 3600 // 60

    assert when_counted([(7.0 * n, text.format(*clock(72000 + 60 * n))) for n in range(40)]) == []


def test_a_table_of_devices_that_is_printed_every_minute_counts_once_at_most() -> None:
    rows = [(60.0 * n, f"| {row}  NVIDIA H100   45C |") for n in range(5) for row in range(8)]
    assert set(when_counted(rows)) == {0.0}


def test_a_number_that_swings_sets_ever_rarer_records() -> None:
    swinging = [(7.0 * n, f"load is {(n * 7919) % 97} here") for n in range(97)]
    assert len(when_counted(swinging)) <= 5


def test_a_number_that_tells_the_seconds_is_taken_for_a_clock() -> None:
    assert max(when_counted([(float(n), f"[{n}] hello") for n in range(60)])) < 10


def test_a_stalled_job_that_lists_its_devices_is_found() -> None:
    def listing(at: float) -> Sample:
        rows = tuple(one for row in range(8) for one in read_line(f"| {row}  NVIDIA H100  45C |"))
        return sample(at, output=OutputSample(0, 0, rows if at % 5 == 0 else ()))

    assert hung_at(listing, 60, Rules(stall_s=10.0)) == 10.0


@pytest.mark.parametrize("name", ["policy_loss", "val_bpb", "eval/ppl", "train_rmse", "rewards"])
def test_a_result_counts_by_any_word_of_its_name_whenever_it_is_a_new_one(name: str) -> None:
    lines = [(7.0 * n, f"{name}={2 / (n + 1):.4f}") for n in range(8)]
    assert when_counted(lines) == [7.0 * n for n in range(1, 8)]
    assert when_counted([(7.0 * n, f"{name}=0.5") for n in range(8)]) == []
