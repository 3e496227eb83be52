"""Loops that ask with a timeout, threads that poll on somebody's behalf, and what such a loop is no evidence of."""

from __future__ import annotations

import msgspec
import pytest

from diagnose.recordedcases import HUNG, case_of, replace
from unsloth_watch.diagnose import Case, diagnose
from unsloth_watch.diagnose.busyloop import BusyLoop
from unsloth_watch.diagnose.lostworker import LostWorker
from unsloth_watch.diagnose.pollloop import PollLoop
from unsloth_watch.model.diagnosis import Status
from unsloth_watch.model.evidence import Frame, SourceLoop
from unsloth_watch.model.process import ProcessSample
from unsloth_watch.model.sample import Look, Sample

pytestmark = pytest.mark.quick

PROVEN = msgspec.structs.replace(HUNG, is_proven=True)


def zoo(name: str) -> Case:
    return case_of(f"zoo-hang_{name}", HUNG)


def wake(case: Case, *counts: int) -> Case:
    """Return a case whose samples show the main thread's wake-ups."""
    ref = case.processes[0].ref
    process = ProcessSample(ref, 1, "python", "S", 1.0, 0.1, 0.0, 0, 0, 0, 1, 1 << 20)
    samples = (Sample(100.0 + at, 1000.0 + at, (msgspec.structs.replace(process, vctx=count),)) for at, count in enumerate(counts))
    return msgspec.structs.replace(case, samples=tuple(samples))


@pytest.mark.parametrize(
    ("counts", "status"), [((7, 8, 9), Status.SUPPORTED), ((7, 8), Status.HYPOTHESIS), ((), Status.HYPOTHESIS)]
)
def test_a_wait_with_a_timeout_is_a_poll_once_it_was_seen_to_go_back(counts: tuple[int, ...], status: Status) -> None:
    diagnosis = diagnose(wake(zoo("queue_timeout"), *counts))
    assert (diagnosis.cause, diagnosis.status) == ("poll-loop", status)
    assert "a queue on which nothing moves" in diagnosis.summary


def test_a_loop_over_batches_with_a_timeout_is_no_poll() -> None:
    case = zoo("queue_timeout")
    [main] = case.processes[0].threads
    loops = tuple(msgspec.structs.replace(loop, header="for batch in range(10)") for loop in main.loops)
    root = msgspec.structs.replace(case.processes[0], threads=(msgspec.structs.replace(main, loops=loops),))
    assert PollLoop().judge(wake(replace(case, processes=(root,)), 7, 8, 9)) is None


def test_a_thread_that_polls_is_named_where_the_main_thread_waits_for_it() -> None:
    diagnosis = diagnose(zoo("thread_polls"))
    assert (diagnosis.cause, diagnosis.status) == ("poll-loop", Status.SUPPORTED)
    assert diagnosis.culprit is not None
    assert "wait_for_rank_0" in str(diagnosis.culprit.frame)


def test_a_poll_that_nobody_waits_for_is_hardly_the_cause() -> None:
    diagnosis = PollLoop().judge(zoo("child_server"))
    assert diagnosis is not None
    assert diagnosis.status is Status.HYPOTHESIS


def test_of_a_servers_threads_the_one_at_the_other_end_is_blamed() -> None:
    diagnosis = diagnose(zoo("child_server"))
    assert diagnosis.culprit is not None
    assert "serve" in str(diagnosis.culprit.frame)


def test_a_client_that_was_not_accepted_waits_for_who_listens_and_not_for_the_network() -> None:
    diagnosis = diagnose(zoo("http_callback"))
    assert diagnosis.cause == "stuck-worker"
    assert not any(other.startswith("network-stall") for other in diagnosis.alternatives)


def test_without_a_body_nobody_is_said_for_certain_to_have_died() -> None:
    case = msgspec.structs.replace(zoo("mp_lock_killed"), verdict=PROVEN)
    living = tuple(process for process in case.processes if process.state != "Z")
    diagnosis = LostWorker().judge(replace(case, processes=living))
    assert diagnosis is not None
    assert diagnosis.status is Status.SUPPORTED
    assert "probably" in diagnosis.summary


def computing(header: str) -> Case:
    """A main thread that computes in many places below a loop of the user's."""
    case = zoo("queue_timeout")
    [main] = case.processes[0].threads
    frames = (Frame("matmul", "/usr/lib/python3.11/site-packages/torch/nn.py", 9), Frame("sample", "/home/user/job/train.py", 7))
    loops = (SourceLoop(1, header, "answer = model.generate(prompt)"),)
    busy = msgspec.structs.replace(main, frames=frames, loops=loops, state="R", call=None, syscall_args=())
    root = msgspec.structs.replace(case.processes[0], threads=(busy,), state="R")
    looks = tuple(
        Look(root.ref, f"{at:08x}", (f"part{at} (/usr/lib/python3.11/site-packages/torch/nn.py:{at})",), True) for at in range(9)
    )
    return msgspec.structs.replace(replace(case, processes=(root,)), looks=looks)


def test_a_computation_without_an_end_names_the_users_own_loop_as_a_guess() -> None:
    diagnosis = diagnose(computing("while True"))
    assert (diagnosis.cause, diagnosis.status) == ("busy-loop", Status.HYPOTHESIS)
    assert "`while True`" in diagnosis.summary
    assert diagnosis.culprit is not None
    assert "train.py:7" in str(diagnosis.culprit.frame)


def test_a_computation_below_a_for_loop_is_unknown_and_says_where_the_user_calls_it() -> None:
    case = computing("for step in range(10)")
    assert BusyLoop().judge(case) is None
    diagnosis = diagnose(case)
    assert diagnosis.cause == "unknown"
    assert "train.py:7" in diagnosis.summary
