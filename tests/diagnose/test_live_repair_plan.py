"""Which repair of a living job the evidence allows, and what it never does."""

from __future__ import annotations

import msgspec
import pytest

from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.liverepair import plan_repair
from unsloth_watch.model.diagnosis import Culprit, Diagnosis, Status
from unsloth_watch.model.evidence import (
    CacheProbe,
    Connection,
    Descriptor,
    Evidence,
    Frame,
    ProcessEvidence,
    SourceLoop,
    ThreadEvidence,
)
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.model.repair import Repair
from unsloth_watch.model.verdict import State, Verdict

pytestmark = pytest.mark.quick

READ_END, WRITE_END = 0, 1


def diagnosis(cause: str, status: Status = Status.ESTABLISHED, **culprit) -> Diagnosis:
    return Diagnosis(cause, "t", "s", status, 0.9, culprit=Culprit(kind="process", **culprit))


def thread(
    pid: int,
    call: str | None = None,
    *,
    args: tuple[int, ...] = (),
    fds: tuple[int, ...] = (),
    frames: tuple[Frame, ...] = (),
    state: str = "S",
) -> ThreadEvidence:
    return ThreadEvidence(pid, "MainThread", True, frames, state=state, call=call, syscall_args=args, wait_fds=fds, wait=call)


def process(pid: int, *threads: ThreadEvidence, ppid: int = 1, fds: tuple[Descriptor, ...] = (), **more) -> ProcessEvidence:
    return ProcessEvidence(ProcessRef(pid, pid), ppid, ("python", "x.py"), threads=threads, descriptors=fds, **more)


def plan(
    found: Diagnosis,
    *processes: ProcessEvidence,
    outside: tuple[str, ...] = (),
    caches: tuple[CacheProbe, ...] = (),
    is_proven: bool = False,
) -> Repair | None:
    evidence = Evidence(0.0, 0.1, processes, processes[0].ref, caches=caches, outside=outside)
    verdict = Verdict(State.HUNG, 9.0, 9.0, 6.0, None, (), is_proven=is_proven)
    return plan_repair(Case(evidence, verdict), found)


# Stopped processes ------------------------------------------------------------------------------------------------------------


def test_a_stopped_root_is_continued() -> None:
    repair = plan(diagnosis("process-stopped", pid=10), process(10, thread(10, state="T"), state="T"))
    assert repair is not None
    assert (repair.id, [target.process.pid for target in repair.targets]) == ("continue-process", [10])


def test_a_stopped_child_is_continued_where_its_parent_waits_for_it_and_a_helper_is_not() -> None:
    child, helper = process(11, thread(11, state="T"), ppid=10, state="T"), process(12, thread(12, state="T"), ppid=10, state="T")
    root = process(10, thread(10, "wait4", args=(11, 0, 0, 0)))
    repair = plan(diagnosis("process-stopped", pid=10), root, child, helper)
    assert repair is not None
    assert [target.process.pid for target in repair.targets] == [11]


def test_a_traced_process_is_left_to_its_tracer() -> None:
    assert plan(diagnosis("process-stopped", pid=10), process(10, thread(10, state="t"), state="t", tracer_pid=99)) is None
    assert plan(diagnosis("process-stopped", pid=10), process(10, thread(10, state="T"), state="T", tracer_pid=99)) is None


def test_nothing_is_repaired_on_a_hypothesis_unless_the_hang_is_proven() -> None:
    guess, stopped = diagnosis("process-stopped", Status.HYPOTHESIS, pid=10), process(10, thread(10, state="T"), state="T")
    assert plan(guess, stopped) is None
    assert plan(guess, stopped, is_proven=True) is not None


# Pipes ------------------------------------------------------------------------------------------------------------------------

PIPE = "pipe:[7]"


def writer(pid: int = 11, *, ppid: int = 10) -> ProcessEvidence:
    return process(pid, thread(pid, "write", fds=(1,)), ppid=ppid, fds=(Descriptor(1, PIPE, flags=WRITE_END),))


def reader(*threads: ThreadEvidence, more: tuple[Descriptor, ...] = ()) -> ProcessEvidence:
    return process(10, *threads, fds=(Descriptor(3, PIPE, flags=READ_END), *more))


def test_a_pipe_whose_reader_waits_for_the_writers_end_gets_room_and_may_be_drained() -> None:
    repair = plan(diagnosis("pipe-deadlock"), reader(thread(10, "wait4", args=(11, 0, 0, 0))), writer())
    assert repair is not None
    (target,) = repair.targets
    assert (target.process.pid, target.fd, target.name, target.is_drainable) == (10, 3, PIPE, True)
    assert target.writer == ProcessRef(11, 11)


def test_a_pipe_may_be_drained_too_where_its_reader_reads_to_the_writers_end_from_another() -> None:
    other = "pipe:[8]"
    child = process(
        11,
        thread(11, "write", fds=(2,)),
        ppid=10,
        fds=(Descriptor(1, other, flags=WRITE_END), Descriptor(2, PIPE, flags=WRITE_END)),
    )
    repair = plan(
        diagnosis("pipe-deadlock"), reader(thread(10, "read", fds=(5,)), more=(Descriptor(5, other, flags=READ_END),)), child
    )
    assert repair is not None
    assert repair.targets[0].is_drainable


@pytest.mark.parametrize(
    "waits",
    [
        thread(10, "write", fds=(4,)),  # it feeds the writer, and will read soon after
        thread(10, "futex", args=(1, 0x80, 0, 0)),  # it waits for a thread of its own
        thread(10, "wait4", args=(0xFFFFFFFF, 0, 0, 0)),  # any child: it has two
    ],
)
def test_a_pipe_whose_reader_may_go_on_sooner_is_widened_and_never_drained(waits: ThreadEvidence) -> None:
    repair = plan(diagnosis("pipe-deadlock"), reader(waits), writer(), process(12, thread(12), ppid=10))
    assert repair is not None
    assert not repair.targets[0].is_drainable


def test_a_pipe_that_is_being_read_or_goes_to_us_or_to_strangers_is_left_alone() -> None:
    waits = thread(10, "wait4", args=(11, 0, 0, 0))
    reads = ThreadEvidence(13, "reader", False, state="S", call="read", wait_fds=(3,))
    assert plan(diagnosis("pipe-deadlock"), reader(waits, reads), writer()) is None
    assert plan(diagnosis("pipe-deadlock"), reader(waits), writer(), outside=(PIPE,)) is None
    assert plan(diagnosis("pipe-deadlock"), process(10, waits), writer()) is None


# Connections ------------------------------------------------------------------------------------------------------------------


def connection(local: str = "10.0.0.1:4000", remote: str = "1.2.3.4:443", state: str = "ESTABLISHED", **more) -> Descriptor:
    return Descriptor(5, "socket:[5]", connection=Connection("tcp", local, remote, state, **more))


def waits_on(item: Descriptor, *more: Descriptor, frames: tuple[Frame, ...] = ()) -> ProcessEvidence:
    fds = (item, *more)
    return process(10, thread(10, "recvfrom", fds=tuple(one.fd for one in fds), frames=frames), fds=fds)


STALL = diagnosis("network-stall", pid=10)


def test_the_connection_that_the_culprit_waits_on_is_shut_down() -> None:
    repair = plan(STALL, waits_on(connection()))
    assert repair is not None
    assert (repair.id, repair.targets[0].fd, repair.targets[0].name) == ("shut-down-connection", 5, "socket:[5]")


@pytest.mark.parametrize(
    "culprit",
    [
        waits_on(connection(unread_bytes=10)),
        waits_on(connection(state="LISTEN")),
        waits_on(connection(), msgspec.structs.replace(connection(remote="5.6.7.8:443"), fd=6)),
        waits_on(connection(), frames=(Frame("broadcast", "/x/torch/distributed/distributed_c10d.py", 1),)),
        waits_on(Descriptor(5, "socket:[5]", connection=Connection("unix", "a", "b", "ESTABLISHED"))),
        waits_on(connection(peer_pid=10)),
    ],
    ids=["unread", "listens", "several", "ranks", "unix", "itself"],
)
def test_a_connection_that_is_no_clear_stall_with_an_outsider_is_left_alone(culprit: ProcessEvidence) -> None:
    assert plan(STALL, culprit) is None


def test_a_connection_to_a_process_of_the_job_is_left_alone() -> None:
    peer = process(11, thread(11), ppid=10, fds=(connection("1.2.3.4:443", "10.0.0.1:4000"),))
    assert plan(STALL, waits_on(connection()), peer) is None


def test_a_connection_is_left_alone_where_the_network_is_not_the_cause() -> None:
    assert plan(diagnosis("thread-deadlock", pid=10), waits_on(connection()), is_proven=True) is None


# Directories and lock files ---------------------------------------------------------------------------------------------------


def probe(**more) -> CacheProbe:
    return CacheProbe("triton", "/job/cache", "default", **{"exists": False, **more})


def test_a_cache_that_is_missing_or_closed_is_made_usable_and_one_that_fails_otherwise_is_not() -> None:
    found, root = diagnosis("compile-cache-unusable", pid=10, path="/job/cache"), process(10, thread(10))
    for fit in (probe(), probe(exists=True, is_directory=True, is_writable=False)):
        repair = plan(found, root, caches=(fit,))
        assert repair is not None
        assert (repair.id, repair.targets[0].name) == ("make-directory", "/job/cache")
    # unsloth_zoo 2025.3.1: the directory helps nobody who cannot import it.
    for unfit in (probe(is_importable=False), probe(exists=True), probe(exists=True, is_directory=True, is_writable=True)):
        assert plan(found, root, caches=(unfit,)) is None


def test_a_directory_to_write_to_is_made_and_one_to_read_from_is_not() -> None:
    def polling(call: str) -> ProcessEvidence:
        loop = SourceLoop(0, f"while not path.{call}", "time.sleep(1)", ())
        return process(10, msgspec.structs.replace(thread(10), loops=(loop,)))

    assert plan(diagnosis("poll-loop", pid=10, path="/job/checkpoints"), polling("is_dir()")) is not None
    assert plan(diagnosis("poll-loop", pid=10, path="/data/train"), polling("is_dir()")) is None
    # A file of that name is another thing.
    assert plan(diagnosis("poll-loop", pid=10, path="/job/checkpoints"), polling("exists()")) is None
    loop = SourceLoop(0, "while not checkpoint.exists()", "", ("place.is_dir()",), target="/job/checkpoint", question="exists")
    other = process(10, msgspec.structs.replace(thread(10), loops=(loop,)))
    assert plan(diagnosis("poll-loop", pid=10, path="/job/checkpoint"), other) is None


def test_only_filelocks_own_lock_file_is_released_under_its_waiter() -> None:
    found = diagnosis("stale-lock-file", pid=10, path="/job/data.lock")
    seen = ("/job/data.lock",)
    soft = process(10, thread(10, "clock_nanosleep", frames=(Frame("acquire", "/x/filelock/_api.py", 1),)), glimpses=seen)
    baton = process(10, thread(10, "clock_nanosleep", frames=(Frame("wait", "/x/torch/utils/file_baton.py", 1),)), glimpses=seen)
    repair = plan(found, soft)
    assert repair is not None
    assert (repair.id, repair.targets[0].name) == ("release-lock-file", "/job/data.lock")
    assert plan(found, baton) is None
    # A refused O_EXCL opens nothing: then the variable that its loop names says which file it wants.
    loop = SourceLoop(0, "while True", "time.sleep(delay)", ("log(lock_filename)",), target="/job/data.lock")
    asking = msgspec.structs.replace(soft, glimpses=(), threads=(msgspec.structs.replace(soft.threads[0], loops=(loop,)),))
    assert plan(found, asking) is not None
    assert plan(found, msgspec.structs.replace(soft, glimpses=("/job/other.lock",))) is None
