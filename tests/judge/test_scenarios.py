"""The judge on scenarios: lists of samples, and the verdicts that they must give, replayed without waiting."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from scenario import ROOT, hung_at, process, reading, replay, sample
from unsloth_watch.judge.memory import Memory
from unsloth_watch.judge.rules import Rules
from unsloth_watch.judge.verdict import judge
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.model.sample import ConnectionSample, FileSample, GpuSample, Look, OutputSample, Reading, Sample
from unsloth_watch.model.verdict import State

pytestmark = pytest.mark.quick


def test_a_silent_idle_job_is_hung_at_the_stall_timeout_and_not_before() -> None:
    assert hung_at(sample, 30) == 10.0


def test_the_founding_hang_is_hung_although_it_reads_files_180_times_a_second_and_burns_3_5_percent_of_a_core() -> None:
    def founding(at: float) -> Sample:
        busy = process(utime_s=5 + 0.035 * at, syscr=int(180 * at), rchar=int(12288 * at), vctx=int(100 * at))
        cached = FileSample(1, 2, "/job/unsloth_compiled_cache/tiny.py", int(at * 4096) % 12288, 12288, False)
        return sample(at, busy, files=(cached,))

    assert hung_at(founding, 60) is not None
    assert hung_at(founding, 60) <= 14.0  # type: ignore[operator]


def test_the_same_loop_on_a_slow_host_where_it_burns_a_quarter_of_a_core_is_hung_too() -> None:
    assert hung_at(
        lambda at: sample(at, process(utime_s=5 + 0.25 * at, syscr=int(90 * at), rchar=int(8000 * at), vctx=int(50 * at))), 60
    )


def test_a_job_with_a_low_duty_that_polls_nothing_is_left_alone() -> None:
    assert hung_at(lambda at: sample(at, process(utime_s=5 + 0.15 * at, vctx=int(50 * at))), 600) is None


@pytest.mark.parametrize("stall_s", [10.0, 60.0, 180.0])
def test_windows_follow_the_stall_timeout(stall_s: float) -> None:
    rules = Rules(stall_s=stall_s, busy_s=1800.0)
    assert hung_at(sample, 2 * stall_s, rules, every=stall_s / 20) == pytest.approx(stall_s)


HEALTHY: dict[str, Callable[[float], Sample]] = {
    "a silent phase that computes": lambda at: sample(at, process(utime_s=5 + 0.95 * at)),
    "idle parent, busy workers": lambda at: sample(at, process(), *(process(200 + i, utime_s=0.9 * at) for i in range(4))),
    "many workers that are each below the threshold": lambda at: sample(
        at, process(), *(process(200 + i, utime_s=0.05 * at) for i in range(16))
    ),
    "a download of 3 kB/s into a file": lambda at: sample(
        at, files=(FileSample(1, 7, "/hub/x.incomplete", int(3000 * at), int(3000 * at), True),)
    ),
    "a download that is written in blocks of 16 kB every 5 s": lambda at: sample(
        at, files=(FileSample(1, 7, "/hub/x.incomplete", int(at // 5) * 16384, None, True),)
    ),
    "a slow write to storage": lambda at: sample(at, process(write_bytes=int(200_000 * at))),
    "short-lived compilers whose CPU shows in their parent only": lambda at: sample(
        at, process(reaped_cpu_s=0.8 * at, reaped_minflt=int(900 * at))
    ),
    "a bar that moves every 8 s": lambda at: sample(at, output=reading(at // 8, 1000)),
    "loss records every 8 s": lambda at: sample(at, output=reading(1.0 / (1 + at // 8), name="loss")),
    "host asleep while the device moves data": lambda at: sample(
        at, process(has_gpu=True), gpus=(GpuSample(0, "g", 100.0, dram=2.0, tensor=1.0, pcie_rx=8e7, pcie_tx=8e7),)
    ),
    "host asleep, tiny training that only PCIe shows": lambda at: sample(
        at, process(has_gpu=True), gpus=(GpuSample(0, "g", 13.0, dram=0.0, tensor=0.0, pcie_rx=5.4e7, pcie_tx=5e6),)
    ),
    "a load that grows the resident set by 2 MiB/s": lambda at: sample(
        at, process(rss_bytes=(500 << 20) + int(at * (2 << 20)), minflt=1000 + int(32 * at))
    ),
    "starved on an overloaded machine": lambda at: sample(at, process(state="R", utime_s=5 + 0.04 * at)),
    "waiting for our own relay": lambda at: sample(at, output=OutputSample(0, 0, is_blocked=True)),
    "the command reports steps by sd_notify": lambda at: sample(at, heartbeats=int(at // 6)),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_it_leaves_alone(name: str) -> None:
    assert hung_at(HEALTHY[name], 600) is None


HANGING: dict[str, Callable[[float], Sample]] = {
    "a heartbeat file rewritten in place": lambda at: sample(
        at, process(write_bytes=int(4096 * at)), files=(FileSample(1, 9, "/beat", 20, 20, True),)
    ),
    "a log line of 60 bytes a second": lambda at: sample(at, files=(FileSample(1, 9, "/log", int(60 * at), int(60 * at), True),)),
    "an alive line of one shape": lambda at: sample(at, output=OutputSample(int(30 * at), int(at), (Reading("bbbbbbbb"),))),
    "a bar redrawn at the same place": lambda at: sample(at, output=reading(30, 60)),
    "the same loss printed again": lambda at: sample(at, output=reading(1.25, name="loss")),
    "a count of seconds": lambda at: sample(at, output=reading(round(at), name="count")),
    "retries that are counted": lambda at: sample(at, output=reading(round(at * 3), name="attempt")),
    "a breathing allocator": lambda at: sample(
        at, process(rss_bytes=(500 << 20) + (int(at) % 2) * (6 << 20), minflt=1000 + int(32 * at))
    ),
    "a poll of a 20 ms command": lambda at: sample(
        at, process(reaped_cpu_s=0.02 * at, reaped_minflt=int(600 * at), minflt=int(400 * at))
    ),
    "a device that idles at its floor": lambda at: sample(
        at, process(has_gpu=True), gpus=(GpuSample(0, "g", 0.0, dram=0.001, tensor=0.0, pcie_rx=1.1e5, pcie_tx=3.5e5),)
    ),
    "other people's load on the device": lambda at: sample(
        at,
        process(has_gpu=True),
        gpus=(
            GpuSample(
                0,
                "g",
                100.0,
                dram=30.0,
                tensor=20.0,
                pcie_rx=1e9,
                pcie_tx=1e9,
                own_memory_bytes=1 << 30,
                own_utilization=0.0,
                is_shared=True,
            ),
        ),
    ),
    "a zombie child": lambda at: sample(at, process(), process(200, state="Z")),
}


@pytest.mark.parametrize("name", HANGING)
def test_it_is_not_fooled_by(name: str) -> None:
    # A count of seconds is believed until it has kept step with the clock for a few advances.
    assert hung_at(HANGING[name], 40) is not None


def test_a_spinning_job_without_a_known_rhythm_gets_the_busy_timeout() -> None:
    assert hung_at(lambda at: sample(at, process(utime_s=5 + at)), 2000, every=5.0) == 1800.0


def stepping_then(at: float, breaks_at: float, after: Callable[[float], dict[str, Any]], total: float = 10_000) -> Sample:
    """Ten steps a second in a bar, computing, until ``breaks_at``; then what ``after`` says."""
    work = process(utime_s=5 + at)
    if at <= breaks_at:
        return sample(at, work, output=reading(10 * at, total))
    return sample(at, work, **after(at))


def test_a_spin_in_mid_way_with_one_stack_gets_twice_the_stall_timeout() -> None:
    look = Look(ROOT, "cccccccc", ("spin (train.py:7)",), True)
    at = hung_at(lambda at: stepping_then(at, 30, lambda _: {"looks": (look,)}), 300)
    assert at == pytest.approx(30 + 20, abs=2)


def test_quick_steps_of_which_each_sample_holds_several_make_a_rhythm_too() -> None:
    look = Look(ROOT, "cccccccc", ("spin (train.py:7)",), True)

    def spinning(at: float) -> Sample:
        steps = tuple(Reading("aaaaaaaa", "step", 5 * at + n, 100) for n in range(5))
        output = OutputSample(0, 0, steps if 1 <= at <= 2 else ())
        return sample(at, process(utime_s=5 + at), output=output, looks=(look,) if at > 2 else ())

    assert hung_at(spinning, 300) == pytest.approx(2 + 20, abs=2)


def test_a_silent_evaluation_on_the_cpu_is_left_alone_because_its_stacks_keep_moving() -> None:
    def evaluating(at: float) -> dict[str, Any]:
        return {"looks": (Look(ROOT, f"{int(at * 7) % 23:08x}", ("forward (model.py:7)",), True),)}

    assert hung_at(lambda at: stepping_then(at, 30, evaluating), 600) is None


@pytest.mark.parametrize("stall_s", [6.0, 14.0, 20.0, 60.0, 180.0])
@pytest.mark.parametrize("processes", [1, 4])
def test_the_looks_that_are_asked_for_close_a_set_before_twice_the_stall_timeout(stall_s: float, processes: int) -> None:
    rules = Rules(stall_s=stall_s)
    memory, looks, most = Memory(), (), 0
    breaks_at = 12.0
    for at in itertools.count():
        memory, verdict = judge(memory, stepping_then(float(at), breaks_at, lambda _, looks=looks: {"looks": looks}), rules)
        if verdict.state is State.HUNG:
            break
        refs = [ProcessRef(ROOT.pid + number, 1) for number in range(processes)]
        count = verdict.looks if verdict.wants_look else 0
        looks = tuple(Look(ref, "cccccccc", ("spin (train.py:7)",), True) for _ in range(count) for ref in refs)
        most = max(most, len(looks))
    assert 2 * stall_s <= verdict.at - breaks_at <= 2 * stall_s + (3 if processes == 1 else 9)
    assert most <= 4


def test_a_burst_of_looks_is_asked_for_only_while_a_rhythm_is_broken_and_the_timeout_short() -> None:
    silent = [verdict.looks for verdict in replay((sample(float(at)) for at in range(60)), Rules(stall_s=6.0))]
    assert set(silent) == {1}
    look = Look(ROOT, "cccccccc", ("spin (train.py:7)",), True)
    long = [stepping_then(float(at), 30, lambda _: {"looks": (look,)}) for at in range(200)]
    assert {verdict.looks for verdict in replay(long, Rules(stall_s=180.0))} == {1}


def test_a_complete_bar_has_no_next_step_to_wait_for() -> None:
    look = Look(ROOT, "cccccccc", ("write (save.py:7)",), True)
    assert hung_at(lambda at: stepping_then(at, 30, lambda _: {"looks": (look,)}, total=300), 600) is None


def test_the_stall_clock_starts_when_computing_ends_not_when_progress_did() -> None:
    assert hung_at(lambda at: sample(at, process(utime_s=5 + min(at, 100.0))), 200) == pytest.approx(110, abs=4)


def test_a_suspended_machine_is_no_silence() -> None:
    def suspended(at: float) -> Sample:
        return sample(at if at < 6 else at + 3600, gap_s=3600.0 if at == 6 else 0.0)

    assert hung_at(suspended, 30) == pytest.approx(3600 + 10, abs=1)


def test_unreadable_processes_are_no_silence() -> None:
    assert hung_at(lambda at: msgspec.structs.replace(sample(at), processes=None), 600) is None


@pytest.mark.parametrize("sense", ["files", "output", "connections"])
def test_without_a_sense_the_judge_is_slower_and_says_so(sense: str) -> None:
    verdicts = list(replay(msgspec.structs.replace(sample(float(at)), **{sense: None}) for at in range(21)))
    assert [verdict.at for verdict in verdicts if verdict.state is State.HUNG] == [20.0]
    assert verdicts[-1].degraded == (sense,)


def test_connections_of_which_some_are_unknown_make_it_slower() -> None:
    assert hung_at(lambda at: sample(at, degraded=("connections",)), 60) == 20.0


def test_an_unknown_device_makes_it_slower_only_for_a_job_that_uses_one() -> None:
    assert hung_at(lambda at: sample(at, process(has_gpu=True), gpus=None), 60) == 20.0
    assert hung_at(lambda at: sample(at, process(has_gpu=False), gpus=None), 60) == 10.0


def test_the_reasons_of_a_verdict_say_what_was_seen() -> None:
    *_, last = replay(sample(float(at), process(syscr=180 * at, rchar=12288 * at)) for at in range(11))
    assert "no work and no data moved for 10 s" in last.reasons[0]
    assert any("180 reads/s" in reason for reason in last.reasons)


def test_looks_are_asked_for_rarer_and_rarer() -> None:
    asked = [verdict.at for verdict in replay((sample(float(at)) for at in range(170)), Rules(stall_s=180.0)) if verdict.wants_look]
    assert 3 <= asked[0] <= 5
    assert 6 <= len(asked) <= 25
    gaps = [b - a for a, b in itertools.pairwise(asked)]
    assert gaps[-1] > 2 * gaps[0]


def test_samples_survive_the_way_through_json() -> None:
    work = process(utime_s=0.5, write_bytes=1, minflt=2)
    more = {"files": (FileSample(1, 1, "/f", 1024, None, True),), "connections": (ConnectionSample(1, "p", 2, 3, True),)}
    for one in (sample(0.0, work, output=reading(1, 1000), **more), sample(1.0, connections=None, files=None)):
        assert msgspec.json.decode(msgspec.json.encode(one), type=Sample) == one
