"""Pipes: what passes through one is in a process's totals alone, and counts where it was seen to wait there."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest

from unsloth_watch.judge.memory import Memory
from unsloth_watch.judge.rules import Rules
from unsloth_watch.judge.streams import find_streams
from unsloth_watch.judge.verdict import judge
from unsloth_watch.model.evidence import Connection, Descriptor, Evidence, ProcessEvidence, ThreadEvidence
from unsloth_watch.model.process import ProcessRef, ProcessSample
from unsloth_watch.model.sample import OutputSample, Sample
from unsloth_watch.model.verdict import State

pytestmark = pytest.mark.quick

ROOT = ProcessRef(100, 5000)
RULES = Rules(stall_s=30.0, busy_s=300.0)
UNIX = Connection("unix", "socket:[7]", "socket:[8]", "ESTABLISHED")
TCP = Connection("tcp", "127.0.0.1:4000", "127.0.0.1:80", "ESTABLISHED")


def waiting(target: str, connection: Connection | None = None, call: str = "read") -> Evidence:
    """A survey of one process whose main thread waits on one descriptor."""
    thread = ThreadEvidence(100, "MainThread", is_main=True, state="S", call=call, wait=f"{call} of fd 3", wait_fds=(3,))
    descriptor = Descriptor(fd=3, target=target, connection=connection)
    return Evidence(0.0, 0.1, (ProcessEvidence(ROOT, 1, threads=(thread,), descriptors=(descriptor,)),), root=ROOT)


@pytest.mark.parametrize(
    ("target", "connection", "is_stream"),
    [
        ("pipe:[1]", None, True),
        ("/data/rows.fifo", None, True),
        ("socket:[7]", UNIX, True),
        ("socket:[9]", TCP, False),
        ("/dev/pts/0", None, False),
        ("anon_inode:inotify", None, False),
    ],
)
def test_pipes_and_unix_sockets_are_streams_and_what_has_its_own_sense_is_not(
    target: str, connection: Connection | None, is_stream: bool
) -> None:
    assert bool(find_streams(waiting(target, connection))) is is_stream


def test_who_waits_for_a_slow_disk_in_pread_is_at_a_stream_and_who_waits_for_its_memory_is_not() -> None:
    survey = waiting("/data/rows.parquet", call="pread64")
    [process] = survey.processes
    found = {}
    for state, call in (("D", "pread64"), ("D", "madvise")):
        thread = msgspec.structs.replace(process.threads[0], state=state, call=call)
        changed = msgspec.structs.replace(process, threads=(thread,))
        found[call] = bool(find_streams(msgspec.structs.replace(survey, processes=(changed,))))
    assert found == {"pread64": True, "madvise": False}


def states(reads: Iterable[tuple[int, int]], survey: Evidence | None, rules: Rules = RULES) -> list[State]:
    """Judge a job that reads so many bytes with so many calls each second and prints nothing."""
    memory, found, total, calls = Memory(), [], 1 << 20, 100
    for second, (size, count) in enumerate(reads):
        total, calls = total + size, calls + count
        process = ProcessSample(
            *(ROOT, 1, "python", "S", 1.0, 0.1, 0.0, 0, 0, 0, 1, 1 << 20),
            thread_states={"S": 1},
            vctx=calls,
            rchar=total,
            wchar=0,
            syscr=calls,
            syscw=0,
            read_bytes=0,
            write_bytes=0,
            has_gpu=False,
        )
        surveys = (survey,) if survey is not None and second == 3 else ()
        sample = Sample(
            100.0 + second,
            1000.0 + second,
            (process,),
            output=OutputSample(0, 0),
            files=(),
            connections=(),
            gpus=(),
            surveys=surveys,
        )
        memory, verdict = judge(memory, sample, rules)
        found.append(verdict.state)
    return found


def test_a_job_that_is_fed_through_a_pipe_lives_to_the_busy_timeout() -> None:
    found = states([(60_000, 2)] * 320, waiting("pipe:[1]"))
    assert State.HUNG not in found[:290]
    assert found[-1] is State.HUNG


def test_a_pipe_that_stands_still_is_silence_from_then_on() -> None:
    found = states([(60_000, 2)] * 60 + [(0, 0)] * 40, waiting("pipe:[1]"))
    assert State.HUNG not in found[:85]
    assert found[-1] is State.HUNG


@pytest.mark.parametrize("reads", [(60_000, 2), (12_000, 180)])
def test_the_same_bytes_of_a_job_that_waits_elsewhere_are_known_ground(reads: tuple[int, int]) -> None:
    assert State.HUNG in states([reads] * 60, None)


@pytest.mark.parametrize("reads", [(9_000, 1), (40_000, 180)])
def test_a_little_through_a_pipe_and_a_poll_beside_one_are_no_stream(reads: tuple[int, int]) -> None:
    assert State.HUNG in states([reads] * 60, waiting("pipe:[1]"))
