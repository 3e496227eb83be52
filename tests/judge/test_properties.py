"""What must hold for every job: drawn at the thresholds, where faults are."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from scenario import process, reading, replay, sample
from unsloth_watch.judge.meter import Meter
from unsloth_watch.model.sample import ConnectionSample, FileSample, OutputSample, Reading, Sample
from unsloth_watch.model.verdict import State

pytestmark = pytest.mark.quick

relaxed = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
"""No deadline and no complaint about slowness: the machine may be busy."""
Flow = dict[str, float]
NEVER = float("inf")

flow = st.fixed_dictionaries(
    {
        "core": st.sampled_from([0.0, 0.034, 0.099, 0.1, 0.101, 0.6]),
        "file": st.sampled_from([0, 255, 256, 1023, 1024, 1025, 50_000]),
        "storage": st.sampled_from([0, 16_383, 65_536, 65_537]),
        "outer": st.sampled_from([0, 100, 511, 513, 1023, 1024, 1025, 3000, 1 << 20]),
        "inner": st.sampled_from([0, 1024, 32_767, 65_535, 65_536, 1 << 20]),
        "faults": st.sampled_from([0, 199, 200, 201]),
        "memory": st.sampled_from([0, 1 << 20, (8 << 20) - 1, 8 << 20]),
        "step": st.sampled_from([0, 0, 1]),
    }
)
flows = st.lists(flow, min_size=14, max_size=40)


def job(of: list[Flow], shift: float = 0.0) -> list[Sample]:
    """Samples of a job with these flows in each second."""
    total = dict.fromkeys(of[0], 0.0)
    made, faulted = [], 0
    for second, rates in enumerate(of):
        total = {name: total[name] + rates[name] for name in total}
        faulted += rates["memory"] > 0  # it grows by faults of its own
        one = process(
            utime_s=total["core"],
            minflt=int(total["faults"]) + faulted,
            write_bytes=int(total["storage"]),
            rss_bytes=(500 << 20) + int(total["memory"]),
        )
        made.append(
            sample(
                second + shift,
                one,
                process(300),
                files=(FileSample(1, 1, "/f", int(total["file"]), None, True),),
                output=reading(total["step"], 1000),
                connections=(
                    ConnectionSample(7, "a", int(total["outer"]), 0),
                    ConnectionSample(8, "b", 0, int(total["inner"]), True),
                ),
            )
        )
    return made


def hung_from(samples: list[Sample]) -> float:
    """Return when a job is first called hung, infinity where it is not."""
    return next((verdict.at for verdict in replay(samples) if verdict.state is State.HUNG), NEVER)


def states(samples: list[Sample]) -> list[State]:
    return [verdict.state for verdict in replay(samples)]


@relaxed
@given(flows, st.sampled_from([-50.0, 0.5, 1e6]))
def test_shifting_the_clock_changes_nothing(of: list[Flow], shift: float) -> None:
    assert states(job(of)) == states(job(of, shift))


@relaxed
@given(flows, st.permutations([0, 1]))
def test_the_order_of_processes_files_and_connections_is_irrelevant(of: list[Flow], order: list[int]) -> None:
    turned = [
        msgspec.structs.replace(
            one,
            processes=tuple(one.processes[n] for n in order),
            connections=tuple(one.connections[n] for n in order),
        )
        for one in job(of)
        if one.processes is not None and one.connections is not None
    ]
    assert states(job(of)) == states(turned)


@relaxed
@given(flows, st.lists(st.tuples(st.integers(0, 39), flow), max_size=6))
def test_more_evidence_never_brings_a_hang_nearer(of: list[Flow], extra: list[tuple[int, Flow]]) -> None:
    richer = [dict(rates) for rates in of]
    for second, more in extra:
        if second < len(richer):
            richer[second] = {name: richer[second][name] + more[name] for name in more}
    assert hung_from(job(richer)) >= hung_from(job(of))


@relaxed
@given(flows, st.integers(1, 39), st.sampled_from([2.5, 30.0, 3600.0]))
def test_a_gap_is_no_evidence_either_way(of: list[Flow], second: int, gap_s: float) -> None:
    plain = job(of)
    second = min(second, len(plain) - 1)
    suspended = [
        one if n < second else msgspec.structs.replace(one, at=one.at + gap_s, gap_s=gap_s if n == second else 0.0)
        for n, one in enumerate(plain)
    ]
    assert states(plain) == states(suspended)


quiet = st.lists(
    st.fixed_dictionaries(
        {
            "core": st.sampled_from([0.0, 0.05, 0.09]),
            "file": st.sampled_from([0, 100, 255]),
            "storage": st.sampled_from([0, 4096, 16_383]),
            "outer": st.sampled_from([0, 100, 500]),
            "inner": st.sampled_from([0, 1024, 32_000]),
            "faults": st.sampled_from([0, 100, 199]),
            "memory": st.just(0),
            "step": st.just(0),
        }
    ),
    min_size=25,
    max_size=40,
)
SENSES: dict[str, Any] = dict.fromkeys(("processes", "files", "output", "gpus", "connections"))
FIELDS = ("rchar", "wchar", "syscr", "syscw", "read_bytes", "write_bytes", "vctx", "nvctx", "has_gpu", "thread_states")


@relaxed
@given(quiet, st.sampled_from(sorted(SENSES)), st.sets(st.integers(0, 39)))
def test_a_sense_that_is_missing_now_and_then_never_brings_a_hang_nearer(of: list[Flow], sense: str, when: set[int]) -> None:
    blind = [msgspec.structs.replace(one, **{sense: None}) if n in when else one for n, one in enumerate(job(of))]
    assert hung_from(blind) >= hung_from(job(of))


@relaxed
@given(quiet, st.sampled_from(FIELDS), st.sets(st.integers(0, 39)))
def test_a_field_that_is_unreadable_now_and_then_never_brings_a_hang_nearer(of: list[Flow], field: str, when: set[int]) -> None:
    blind = [
        msgspec.structs.replace(
            one, processes=tuple(msgspec.structs.replace(each, **{field: None}) for each in one.processes or ())
        )
        if n in when
        else one
        for n, one in enumerate(job(of))
    ]
    assert hung_from(blind) >= hung_from(job(of))


STILL: Flow = {"core": 0.0, "file": 0, "storage": 0, "outer": 0, "inner": 0, "faults": 0, "memory": 0, "step": 0}


@relaxed
@example([*[STILL] * 17, {**STILL, "file": 50_000}, STILL, {**STILL, "file": 1023}], 18, 3)
@given(flows, st.integers(1, 30), st.integers(1, 8))
def test_files_that_moved_while_they_could_not_be_seen_count_when_they_can(of: list[Flow], first: int, seconds: int) -> None:
    """Offsets are totals: what is not seen now is seen later, so a short blindness can only make the judge more patient."""
    whole = job([*of, *[dict.fromkeys(of[0], 0.0)] * 15])
    last = min(first + seconds, len(whole) - 1)
    blind = [msgspec.structs.replace(one, files=None) if first <= n < last else one for n, one in enumerate(whole)]
    assert hung_from(blind) >= hung_from(whole)


amounts = st.lists(st.sampled_from([0.0, 1.0, 99.0, 100.0, 101.0, 1000.0]), min_size=1, max_size=30)


@relaxed
@example([100.0, 100.0, 100.0], 0, 1000.0)
@given(amounts, st.integers(0, 29), st.sampled_from([1.0, 100.0, 1000.0]))
def test_a_meter_that_gets_more_counts_whenever_it_would_have_counted(flow: list[float], second: int, extra: float) -> None:
    richer = [amount + extra if n == second else amount for n, amount in enumerate(flow)]
    assert {n for n, credit in enumerate(run(flow)) if credit} <= {n for n, credit in enumerate(run(richer)) if credit}


def run(flow: list[float]) -> list[float]:
    meter, counted = Meter(), []
    for second, amount in enumerate(flow):
        meter, credit = meter.add(float(second), amount, leak_per_s=50.0, quota=200.0)
        counted.append(credit)
    return counted


@relaxed
@given(amounts)
def test_a_meter_counts_nothing_twice_and_nothing_that_did_not_come(flow: list[float]) -> None:
    assert sum(run(flow)) <= sum(flow)


def test_the_command_reports_a_step_again_after_a_look_in_between_that_said_nothing() -> None:
    beats = [1, None, 2, None, 2]
    found = [v.last_progress for v in replay(sample(float(n), heartbeats=beat) for n, beat in enumerate(beats))]
    assert found[2] is not None
    assert found[4] == found[2]


def test_a_reading_that_is_no_counter_is_no_progress() -> None:
    assert hung_from([sample(float(n), output=OutputSample(n, n, (Reading("s"),))) for n in range(20)]) <= 11.0
