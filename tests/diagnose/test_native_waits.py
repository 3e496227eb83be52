"""Jobs without Python, whose stacks nobody can read: what their system calls and samples say of a hang."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from diagnose.recordedcases import HUNG
from scenario import process as sampled
from scenario import sample
from unsloth_watch.diagnose import Case, diagnose
from unsloth_watch.model.diagnosis import Diagnosis, Status
from unsloth_watch.model.evidence import Descriptor, Evidence, FileLock, ProcessEvidence, ThreadEvidence
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.model.sample import OutputSample, Sample

pytestmark = pytest.mark.quick

PROVEN = msgspec.structs.replace(HUNG, is_proven=True)
WAIT, JOIN = 0x80 | 0x109, 0x109  # a private wait and one that the kernel ends, as glibc's pthread_join asks for
PID = 100


def thread(tid: int, call: str, *args: int, **more: Any) -> ThreadEvidence:
    """A thread of native code that sleeps in a call."""
    more = {"state": "S", "wait": call, "vctx": 5, "cpu_s": 0.0, **more}
    return ThreadEvidence(tid=tid, name="job", is_main=tid == PID, call=call, syscall_args=(*args, 0, 0, 0, 0), **more)


def futex(tid: int, operation: int = WAIT, value: int = 0) -> ThreadEvidence:
    return thread(tid, "futex", 0x7000 + tid, operation, value)


def explain(
    *threads: ThreadEvidence,
    samples: tuple[Sample, ...] = (),
    verdict: object = HUNG,
    descriptors: tuple[Descriptor, ...] = (),
    locks: tuple[FileLock, ...] = (),
    state: str = "S",
) -> Diagnosis:
    root = ProcessEvidence(
        ref=ProcessRef(PID, 1), ppid=1, command=("./job",), executable="/bin/job", state=state, threads=threads,
        descriptors=descriptors, signals_caught=0, has_timers=False,
    )  # fmt: skip
    evidence = Evidence(at=0.0, seconds=0.1, processes=(root,), root=root.ref, locks=locks, unseen=0)
    return diagnose(Case(evidence, verdict, samples=samples))  # type: ignore[arg-type]


def test_a_condition_that_the_only_thread_waits_for_is_established_by_the_proof() -> None:
    found = explain(futex(PID), verdict=PROVEN)
    assert (found.cause, found.status) == ("abandoned-wait", Status.ESTABLISHED)


def test_a_join_names_the_thread_that_it_waits_for_by_the_value_of_its_futex() -> None:
    found = explain(futex(PID, JOIN, 102), futex(101), futex(102), verdict=PROVEN)
    assert (found.cause, found.status) == ("abandoned-wait", Status.SUPPORTED)
    assert any("waits for thread job to end" in statement.statement for statement in found.evidence)
    assert "PID 100 waits in native code for another thread" in found.summary


def test_a_private_futex_with_the_value_of_a_thread_id_is_no_join() -> None:
    found = explain(futex(PID, WAIT, 102), futex(102))
    assert not any("to end" in statement.statement for statement in found.evidence)


@pytest.mark.parametrize("call", ["msgrcv", "mq_timedreceive", "semop", "splice"])
def test_what_somebody_outside_may_end_is_named_but_never_firmly(call: str) -> None:
    found = explain(thread(PID, call), verdict=PROVEN)
    assert (found.cause, found.status) == ("abandoned-wait", Status.HYPOTHESIS)
    assert call in found.summary


def ticks(core: float, returns: int, lines: int) -> tuple[Sample, ...]:
    """Ten seconds of a job that uses so much of a core, wakes and prints so often a second."""
    return tuple(
        sample(float(at), sampled(PID, utime_s=core * at, vctx=returns * at), output=OutputSample(0, lines * at))
        for at in range(11)
    )


def test_a_native_program_that_sleeps_and_prints_for_ever_is_a_poll_loop() -> None:
    found = explain(thread(PID, "clock_nanosleep"), samples=ticks(0.0, 2, 2))
    assert (found.cause, found.status) == ("poll-loop", Status.HYPOTHESIS)
    assert "woke 20 times in 10 s" in found.summary
    assert "20 lines in 10 s" in found.summary


def test_one_long_sleep_is_no_loop() -> None:
    assert explain(thread(PID, "clock_nanosleep"), samples=ticks(0.0, 0, 0)).cause != "poll-loop"


def test_a_native_program_that_computes_until_the_busy_timeout_is_a_busy_loop() -> None:
    running = thread(PID, "", state="R", wait=None)
    found = explain(msgspec.structs.replace(running, call=None), samples=ticks(0.9, 0, 0))
    assert (found.cause, found.status) == ("busy-loop", Status.HYPOTHESIS)
    assert "90% of a core" in found.summary


def test_nothing_of_that_is_said_before_the_judge_holds_the_job_to_be_hung() -> None:
    assert explain(thread(PID, "clock_nanosleep"), samples=ticks(0.0, 2, 2), verdict=None).cause == "unknown"


def test_a_lock_of_its_own_through_another_descriptor_is_a_circle_of_one() -> None:
    held = FileLock("FLOCK", "WRITE", PID, "08:01", 7, "/tmp/index.lock", is_inside=True)
    wanted = msgspec.structs.replace(held, is_waiter=True)
    descriptors = (Descriptor(3, "/tmp/index.lock"), Descriptor(4, "/tmp/index.lock"))
    waiter = thread(PID, "flock", 4, 2, wait_fds=(4,))
    found = explain(waiter, verdict=PROVEN, descriptors=descriptors, locks=(held, wanted))
    assert (found.cause, found.status) == ("thread-deadlock", Status.ESTABLISHED)
    assert "holds it already" in found.summary


def test_a_full_pipe_that_nobody_else_reads_lacks_a_reader() -> None:
    pipe = "pipe:[7]"
    found = explain(
        thread(PID, "write", 4, wait_fds=(4,)), descriptors=(Descriptor(3, pipe, flags=0), Descriptor(4, pipe, flags=1))
    )
    assert found.cause == "pipe-deadlock"
    assert "nobody but itself has the reading end open, so that no room can come" in found.summary


def test_a_thread_of_the_pool_that_waits_for_something_else_is_where_the_waiting_ends() -> None:
    pipe = "pipe:[7]"
    reader = thread(102, "read", 3, wait_fds=(3,))
    found = explain(futex(PID), futex(101), reader, descriptors=(Descriptor(3, pipe, flags=0), Descriptor(4, pipe, flags=1)))
    assert found.cause == "pipe-deadlock"


def test_of_a_process_whose_main_thread_has_ended_the_others_are_looked_at() -> None:
    found = explain(thread(PID, "", state="Z", wait=None), futex(101), state="Z")
    assert found.cause == "abandoned-wait"
