"""Rules on live processes whose picture cannot be recorded: samples over some seconds, a full control group, two processes and a lock."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from diagnose.recordedcases import HUNG
from environments import interpreter_of
from unsloth_watch.capture.capture import capture, looks
from unsloth_watch.capture.children import own_pids
from unsloth_watch.capture.process import read_start
from unsloth_watch.diagnose import Case, diagnose
from unsloth_watch.diagnose.memorythrash import MIN_FAULTS, MemoryThrash
from unsloth_watch.model.diagnosis import Diagnosis, Status
from unsloth_watch.model.evidence import Evidence
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.model.sample import Sample
from unsloth_watch.sense.files import FileReader
from unsloth_watch.sense.sampler import Sampler
from unsloth_watch.sense.tree import ProcessTree
from waiting import until

THRASHING = Path(__file__).resolve().parents[1] / "thrashing.py"
LIMIT, SIZE = 48 << 20, 128 << 20
LOCKING = """
import os, sys, threading, filelock
def build(path):
    with filelock.FileLock(path):
        os.write(end, b"x")
        threading.Event().wait()
begin, end = os.pipe()
if os.fork() == 0:
    build(sys.argv[1])
os.read(begin, 1)
print("ready", flush=True)
filelock.FileLock(sys.argv[1]).acquire()
"""


class Job:
    """A running command, sampled as the supervisor does.

    Args:
        process: The command.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        start = read_start(process.pid)
        assert start is not None
        self.root = ProcessRef(process.pid, start)
        self.tree = ProcessTree((process.pid,), lambda: {os.getpid(), *own_pids()}, has_anchors=True)
        self.sampler = Sampler(self.tree, None, FileReader(), None, 0.2)
        self.samples: list[Sample] = []

    def sample(self) -> Sample:
        """Take one more sample."""
        self.samples.append(self.sampler.sample(time.monotonic(), time.time()))
        return self.samples[-1]

    def case(self) -> Case:
        """Capture it, and return all that is known."""
        seen = tuple(look for _ in range(4) for look in looks([self.root]))
        evidence: Evidence = capture(self.tree.members(), self.root, at=time.monotonic(), clock=time.monotonic)
        return Case(evidence, HUNG, seen, tuple(self.samples))

    def close(self) -> None:
        """End all of it and give everything back."""
        for ref in reversed(self.tree.members()):
            os.kill(ref.pid, 9)
        self.sampler.close()
        self.tree.close()


@pytest.fixture
def start() -> Iterator:
    """Start a command that prints a line when it is ready."""
    jobs: list[tuple[subprocess.Popen[bytes], Job]] = []

    def begin(*command: str) -> Job:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline()
        jobs.append((process, Job(process)))
        return jobs[-1][1]

    yield begin
    for process, job in jobs:
        job.close()
        process.communicate()


def test_a_polled_lock_of_the_job_itself_is_blamed_on_the_process_that_holds_it(start, tmp_path: Path):
    python = interpreter_of("base")  # it has filelock
    path = tmp_path / "index.lock"
    script = tmp_path / "job.py"
    script.write_text(LOCKING)
    job = start(str(python), str(script), str(path))

    def diagnosed():
        # The waiter opens the lock for a moment each 50 ms: a busy machine may let us miss all of a capture's chances.
        diagnosis = diagnose(job.case())
        return diagnosis if diagnosis.cause == "stuck-worker" else None

    diagnosis = until(diagnosed, seconds=60)
    assert diagnosis.culprit is not None
    assert diagnosis.culprit.pid != job.root.pid
    assert diagnosis.culprit.path == str(path)
    assert "build" in (diagnosis.culprit.frame or "")


def test_a_shell_that_sleeps_again_and_again_polls_and_its_command_says_for_what(start, tmp_path: Path):
    job = start("sh", "-c", f"echo ready; while ! test -f {tmp_path}/stage1.done; do sleep 0.3; done")

    def has_slept_twice() -> bool:
        job.sample()
        seen = {process.ref for sample in job.samples for process in sample.processes or () if process.comm == "sleep"}
        return len(seen) >= 2

    until(has_slept_twice, seconds=30, every=0.1)
    diagnosis = diagnose(job.case())
    assert (diagnosis.cause, diagnosis.status) == ("poll-loop", Status.SUPPORTED)
    assert "stage1.done" in diagnosis.summary


def test_one_sleep_of_a_shell_is_no_poll_loop(start):
    job = start("sh", "-c", "echo ready; sleep 3600; true")
    until(lambda: len(job.sample().processes or ()) == 2)
    job.sample()
    assert diagnose(job.case()).cause != "poll-loop"


@pytest.fixture
def group() -> Iterator[Path]:
    """A memory control group with a limit of 48 MiB."""
    found = _make_group()
    if found is None:
        pytest.skip("no memory control group can be made here; run as root with a writable cgroup file system")
    yield found
    until(lambda: not (found / "cgroup.procs").read_text().strip())
    found.rmdir()


def _make_group() -> Path | None:
    """Return a new group of cgroup v1, below our own, or of v2 at the top where that has the controller."""
    base, limit = Path("/sys/fs/cgroup"), "memory.max"
    own = next((line.split(":")[2] for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line), None)
    if own is not None:
        base, limit = base / "memory" / own.lstrip("/"), "memory.limit_in_bytes"
    place = base / f"unsloth-watch-test-{os.getpid()}"
    try:
        place.mkdir()
        (place / limit).write_text(str(LIMIT))
    except OSError:
        if place.exists():
            place.rmdir()
        return None
    return place


def test_a_job_that_is_larger_than_its_control_group_thrashes(group: Path, start, tmp_path: Path):
    weights = tmp_path / "weights.bin"
    weights.write_bytes(os.urandom(1 << 20) * (SIZE >> 20))
    with weights.open("rb") as file:
        os.fsync(file.fileno())
    job = start(sys.executable, str(THRASHING), str(group), str(weights))

    def thrashes() -> bool:
        last = job.sample()
        first = next(sample for sample in job.samples if sample.processes)
        faults = (last.processes or ())[0].majflt - (first.processes or ())[0].majflt
        span = last.at - first.at
        return span >= 2.5 and faults / span > MIN_FAULTS

    def judged() -> tuple[Case, Diagnosis] | None:
        # On a busy machine the job may be held up for a moment in which others' reclaim leaves its group some room.
        until(thrashes, seconds=40, every=0.2)
        case = job.case()
        diagnosis = MemoryThrash().judge(case)
        return (case, diagnosis) if diagnosis is not None else None

    case, diagnosis = until(judged, seconds=60)
    assert diagnosis.status in {Status.SUPPORTED, Status.ESTABLISHED}
    assert any("major page faults a second" in item.statement for item in diagnosis.evidence)
    assert any("control group uses 4" in item.statement for item in diagnosis.evidence)
    assert diagnose(case).cause == "memory-thrash"
