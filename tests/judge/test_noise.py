"""Every kind of evidence beside the noise that looks like it, each with the figure that was measured or that sets the line."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from scenario import QUICK, hung_at, process, reading, sample
from unsloth_watch.judge.rules import Rules
from unsloth_watch.model.sample import ConnectionSample, FileSample, GpuSample, OutputSample, Reading, Sample

pytestmark = pytest.mark.quick

DEFAULT = Rules()
LATE_S = 7.0
"""What a line may add to the stall timeout: the window of a flow, or of an effort."""


def over(bytes_at: Callable[[float], float], *, is_inside: bool = False, is_upload: bool = False) -> Callable[[float], Sample]:
    """A job whose one connection has moved so many bytes."""

    def make(at: float) -> Sample:
        moved = int(bytes_at(at))
        one = ConnectionSample(7, "10.0.0.2:443", 0 if is_upload else moved, moved if is_upload else 0, is_inside)
        return sample(at, connections=(one,))

    return make


def every(period: float, amount: float) -> Callable[[float], float]:
    """So many bytes at once, from time to time."""
    return lambda at: at // period * amount


def rested(bytes_at: Callable[[float], float], rest_s: float = 2.1) -> Callable[[float], float]:
    """The same as seen by a sensor that rests between two questions."""
    return lambda at: bytes_at(at // rest_s * rest_s)


MOVES = {
    "a trickle of 3 kB/s": over(lambda at: 3000 * at),
    "the slowest download that counts, 1 KiB/s": over(lambda at: 1024 * at),
    "a trickle of 3 kB/s, seen every other second": over(rested(lambda at: 3000 * at)),
    "the slowest that counts, seen every other second": over(rested(lambda at: 1024 * at)),
    "an upload at the receiver's pace, seen every other second": over(rested(lambda at: 181_000 * at), is_upload=True),
    "an upload at the receiver's pace": over(lambda at: 200_000 * at, is_upload=True),
    "a fast download": over(lambda at: 1e8 * at),
    "ranks that exchange gradients over loopback": over(lambda at: 5e6 * at, is_inside=True),
    "a counter towards a total": lambda at: sample(at, output=reading(at // 8, 1000)),
    "a counter by steps": lambda at: sample(at, output=reading(at // 8, name="step")),
    "the command's own word": lambda at: sample(at, heartbeats=int(at // 8)),
    "a new file every 8 s, worked through": lambda at: sample(
        at, files=(FileSample(1, 100 + int(at // 8), f"/data/{at // 8:.0f}", 40_000, 40_000, False),)
    ),
    "memory that grows by 8 MiB every 8 s": lambda at: sample(
        at, process(rss_bytes=(500 << 20) + (int(at // 8) << 23), minflt=1000 + 128 * int(at // 8))
    ),
    "GPU memory that grows by 8 MiB every 8 s": lambda at: sample(
        at, process(has_gpu=True), gpus=(GpuSample(0, "g", 0.0, own_memory_bytes=(1 << 30) + (int(at // 8) << 23)),)
    ),
    "pages that are faulted in 385 times a second": lambda at: sample(at, process(minflt=int(385 * at))),
    "a child that ends after half a second of CPU, every 8 s": lambda at: sample(
        at, process(), *([process(200 + int(at // 8), utime_s=0.5 if at % 8 >= 1 else 0.0)] if at % 8 <= 1 else [])
    ),
}


@pytest.mark.parametrize("stall_s", [10.0, 20.0, 180.0])
@pytest.mark.parametrize("name", MOVES)
def test_evidence_of_progress_counts(name: str, stall_s: float) -> None:
    assert hung_at(MOVES[name], 4 * stall_s, Rules(stall_s=stall_s)) is None


def chatting(period: float, sent: int, received: int, answer_s: float = 0.0) -> Callable[[float], Sample]:
    """A request every so often, with an answer to each after ``answer_s``."""

    def make(at: float) -> Sample:
        answers = max(0.0, at - answer_s) // period * received
        return sample(at, connections=(ConnectionSample(7, "10.0.0.2:443", int(answers), int(at // period * sent)),))

    return make


@pytest.mark.parametrize("name", [name for name in MOVES if "seen every other second" in name])
def test_a_flow_is_seen_within_the_shortest_stall_timeout(name: str) -> None:
    assert hung_at(MOVES[name], 60, Rules(stall_s=6.0)) is None


NOISE = {
    "a keep-alive of 100 bytes a second": over(lambda at: 100 * at),
    "telemetry of 8 kB every 15 s": over(every(15, 8192)),
    "metrics of 20 kB every 10 s": over(every(10, 20_000)),
    "telemetry of 60 kB every half minute": over(every(30, 60_000)),
    "a kilobyte of telemetry every two seconds and the same in answer": chatting(2, 985, 985),
    "half a kilobyte of telemetry a second, seen every other second": over(rested(every(2, 985))),
    "the same, answered a second later": chatting(2, 985, 985, 1.0),
    "a question of 700 bytes and its answer each second": chatting(1, 700, 700),
    "a response of 1 MB and nothing after it": over(lambda at: 1e6 if at >= 1 else 0),
    "a rank that polls a store a hundred times a second": over(lambda at: 12_000 * at, is_inside=True),
    "a heartbeat of 1 kB a second between own processes": over(lambda at: 1024 * at, is_inside=True),
    "a bar that stands and counts its time": lambda at: sample(at, output=OutputSample(0, 0, (Reading("a", "n/total", 30, 60),))),
    "a heartbeat file that is written anew each second": lambda at: sample(
        at, process(write_bytes=int(4096 * at)), files=(FileSample(1, 9, "/beat", 20, 20, True),)
    ),
    "a log line a minute": lambda at: sample(at, files=(FileSample(1, 9, "/log", int(at // 60) * 80, int(at // 60) * 80, True),)),
    "the same ground read again, 12 kB/s in 180 calls": lambda at: sample(
        at, process(syscr=int(180 * at), rchar=int(12_288 * at)), files=(FileSample(1, 2, "/m.py", int(at * 4096) % 12_288, None, False),)
    ),
    "a monitor's history, 20 kB/s": lambda at: sample(at, process(rss_bytes=(500 << 20) + int(20_000 * at), minflt=1000 + int(5 * at))),
    "memory that somebody else's reading faults in, 2 MiB/s": lambda at: sample(at, process(rss_bytes=(500 << 20) + int(at) * (2 << 20))),
    "nvidia-smi in a loop: a fork, an exec and 20 ms of CPU each second": lambda at: sample(
        at,
        process(minflt=int(400 * at), reaped_minflt=int(900 * at), reaped_cpu_s=0.02 * at),
        *([process(200 + int(at), comm="nvidia-smi", utime_s=0.01)] if int(at) % 2 else []),
    ),
    "a thread that wants the GIL, 160 switches a second": lambda at: sample(at, process(vctx=int(160 * at), threads=2)),
    "a monitor thread at 5 % of a core": lambda at: sample(at, process(utime_s=5 + 0.05 * at, vctx=int(20 * at))),
    "a power of 123 W": lambda at: sample(at, process(has_gpu=True), gpus=(GpuSample(0, "g", 0.0, power_w=123.0, dram=0.0, tensor=0.0),)),
}  # fmt: skip


@pytest.mark.parametrize("stall_s", [6.0, 20.0, 180.0])
@pytest.mark.parametrize("name", NOISE)
def test_noise_is_no_progress(name: str, stall_s: float) -> None:
    at = hung_at(NOISE[name], 2 * stall_s, Rules(stall_s=stall_s))
    assert at is not None
    # nvidia-smi is a program not seen before, once.
    assert at <= stall_s + LATE_S


def test_log_lines_between_the_steps_do_not_add_up_to_progress_after_the_last_one() -> None:
    def logging(at: float) -> Sample:
        log = FileSample(1, 9, "/log", int(60 * at), int(60 * at), True)
        return sample(at, output=reading(min(at // 8, 10), 1000), files=(log,))

    assert hung_at(logging, 200) == 80 + 10


def test_telemetry_of_some_kilobytes_is_no_progress_at_a_short_stall_timeout_either() -> None:
    assert hung_at(over(every(15, 4096)), 40, QUICK) == 10.0


def test_a_connection_that_is_seen_for_the_first_time_brings_nothing_with_it() -> None:
    def late(at: float) -> Sample:
        return sample(at, connections=(ConnectionSample(7, "peer", 1 << 30, 0),) if at >= 3 else ())

    assert hung_at(late, 30) == 10.0


def test_with_the_default_timeout_a_transfer_in_bursts_some_seconds_apart_is_seen() -> None:
    assert hung_at(over(every(5, 30_000)), 800, DEFAULT) is None


def test_many_connections_that_each_trickle_below_the_line_are_no_flow() -> None:
    def pings(at: float) -> Sample:
        return sample(at, connections=tuple(ConnectionSample(n, "peer", int(200 * at), 0) for n in range(50)))

    assert hung_at(pings, 30) == 10.0


def test_a_flow_is_seen_at_an_interval_of_five_seconds_too() -> None:
    assert hung_at(over(lambda at: 3000 * at), 200, Rules(stall_s=20.0), every=5.0) is None


def test_a_spinning_kernel_at_100_percent_is_patience_up_to_the_busy_timeout_and_no_progress() -> None:
    def spinning(at: float) -> Sample:
        gpu = GpuSample(0, "g", 100.0, power_w=123.0, dram=0.001, tensor=0.0, pcie_rx=1e5, pcie_tx=3e5, own_memory_bytes=1 << 30)
        return sample(at, process(has_gpu=True), gpus=(gpu,))

    assert hung_at(spinning, 200, Rules(stall_s=10.0, busy_s=100.0)) == 100.0


@pytest.mark.parametrize("stall_s", [20.0, 60.0, 180.0, 600.0])
def test_the_stall_clock_starts_when_computing_ends_however_long_the_window(stall_s: float) -> None:
    def computing(at: float) -> Sample:
        return sample(at, process(utime_s=5 + min(at, 100.0)))

    at = hung_at(computing, 100 + 2 * stall_s, Rules(stall_s=stall_s, busy_s=10 * stall_s))
    assert at is not None
    assert at == 100 + stall_s


@pytest.mark.parametrize("period", [2, 5, 12, 25])
def test_work_in_bursts_is_seen_however_rare_as_long_as_the_window_holds_enough(period: int) -> None:
    def bursts(at: float) -> Sample:
        # 12 % of a core, all of it at the beginning of each period.
        return sample(at, process(utime_s=5 + 0.12 * period * (at // period) + min(at % period, 0.12 * period)))

    assert hung_at(bursts, 800, DEFAULT) is None


CROWDED = {
    "a job of 15 % duty, of which it gets a third": lambda at: sample(
        at, process(utime_s=5 + 0.05 * at, vctx=int(2 * at)), cpu_share=0.4
    ),
    "small processes one after the other": lambda at: sample(
        at, process(utime_s=5 + 0.04 * at, reaped_cpu_s=0.23 * at, reaped_minflt=int(900 * at)), cpu_share=0.4
    ),
}


@pytest.mark.parametrize("name", CROWDED)
def test_on_a_crowded_machine_less_cpu_is_work(name: str) -> None:
    assert hung_at(CROWDED[name], 200) is None


def test_on_a_crowded_machine_a_poll_loop_is_no_work_either() -> None:
    # 42 to 72 wake-ups a second for 1.8 to 3 % of a core; the main thread's are the ones that are counted.
    assert hung_at(lambda at: sample(at, process(utime_s=5 + 0.035 * at, vctx=int(60 * at)), cpu_share=0.3), 30) == 10.0
    assert hung_at(lambda at: sample(at, process(utime_s=5 + 0.09 * at, vctx=int(96 * at)), cpu_share=0.3), 30) == 10.0


def test_on_a_crowded_machine_a_monitor_thread_beside_a_waiting_main_thread_is_no_work() -> None:
    assert hung_at(lambda at: sample(at, process(utime_s=5 + 0.02 * at)), 30) == 10.0
    assert hung_at(lambda at: sample(at, process(utime_s=5 + 0.02 * at), cpu_share=0.3), 30) == 10.0


def compiling(at: float) -> Sample:
    """One compiler after the other, each of them wanting to run when it is looked at."""
    child = process(200 + int(at), state="R", utime_s=0.01, vctx=0)
    return sample(at, process(reaped_cpu_s=0.1 * at, reaped_minflt=int(900 * at), vctx=int(8 * at)), child, cpu_share=0.08)


STARVED = {
    "a job of 15 % duty, of which it gets a tenth": lambda at: sample(
        at, process(utime_s=5 + 0.015 * at, vctx=int(2 * at)), cpu_share=0.04
    ),
    "compilers one after the other, which get an eighth of a core": compiling,
}


@pytest.mark.parametrize("stall_s", [6.0, 14.0, 20.0, 180.0])
@pytest.mark.parametrize("name", STARVED)
def test_on_an_overloaded_machine_very_little_cpu_is_work_where_more_speaks_for_it(name: str, stall_s: float) -> None:
    assert hung_at(STARVED[name], 8 * stall_s, Rules(stall_s=stall_s)) is None


OVERLOADED_NOISE = {
    "the import loop, which wants to run at every look": lambda at: sample(
        at,
        process(state="R", utime_s=5 + 0.03 * at, syscr=int(180 * at), rchar=int(12_288 * at), vctx=int(100 * at)),
        cpu_share=0.06,
    ),
    "a monitor thread beside a waiting main thread": lambda at: sample(at, process(utime_s=5 + 0.02 * at), cpu_share=0.06),
    "a poll each 100 ms": lambda at: sample(at, process(utime_s=5 + 0.02 * at, vctx=int(10 * at)), cpu_share=0.06),
    "a command of 20 ms each second": lambda at: sample(
        at, process(reaped_cpu_s=0.02 * at, reaped_minflt=int(600 * at), vctx=int(2 * at)), cpu_share=0.03
    ),
}


@pytest.mark.parametrize("stall_s", [6.0, 20.0, 180.0])
@pytest.mark.parametrize("name", OVERLOADED_NOISE)
def test_on_an_overloaded_machine_noise_is_no_work_and_the_limit_three_times_longer(name: str, stall_s: float) -> None:
    at = hung_at(OVERLOADED_NOISE[name], 5 * stall_s, Rules(stall_s=stall_s))
    assert at is not None
    assert 3 * stall_s <= at <= 3 * stall_s + LATE_S


def test_a_machine_that_is_crowded_for_a_moment_changes_nothing() -> None:
    def monitored(at: float) -> Sample:
        return sample(at, process(utime_s=5 + 0.05 * at), cpu_share=0.2 if int(at) % 10 == 5 else 1.0)

    assert hung_at(monitored, 30) == 10.0


def test_on_a_machine_that_is_crowded_beyond_measure_it_is_slower_and_not_for_ever() -> None:
    assert hung_at(lambda at: sample(at, process(utime_s=5 + 0.019 * at), cpu_share=0.15), 60) == 20.0
    assert hung_at(lambda at: sample(at, cpu_share=0.001), 60) == 30.0
    # A sense that is missing makes it no slower than it is already.
    assert hung_at(lambda at: sample(at, cpu_share=0.15, files=None), 60) == 20.0


def test_where_the_share_is_unknown_the_last_one_stands() -> None:
    def working(at: float) -> Sample:
        return sample(at, process(utime_s=5 + 0.05 * at), cpu_share=0.4 if at == 1 else None)

    assert hung_at(working, 60) is None


def test_a_starved_process_of_many_threads_whose_states_are_read_at_every_fourth_tick_is_left_alone() -> None:
    def starved(at: float) -> Sample:
        states = {"S": 3, "R": 1} if int(at) % 4 == 0 else None
        return sample(at, process(utime_s=5 + 0.04 * at, threads=4, thread_states=states))

    assert hung_at(starved, 200) is None


def test_an_idle_process_of_many_threads_is_not_taken_for_a_starved_one() -> None:
    def idle(at: float) -> Sample:
        return sample(at, process(threads=4, thread_states={"S": 3, "R": 1} if at == 4 else {"S": 4} if int(at) % 4 == 0 else None))

    assert hung_at(idle, 30) == 10.0
