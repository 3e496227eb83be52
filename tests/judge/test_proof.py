"""The proof on recorded surveys of real programs: hanging ones are proven, and whatever could still be woken never is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from unsloth_watch.judge.inquiry import is_gpu_idle
from unsloth_watch.judge.memory import Memory
from unsloth_watch.judge.quiescence import Proof, prove
from unsloth_watch.judge.rules import Rules
from unsloth_watch.judge.verdict import judge
from unsloth_watch.model.evidence import Descriptor, Evidence, Outsider, ProcessEvidence
from unsloth_watch.model.process import ProcessRef, ProcessSample
from unsloth_watch.model.sample import GpuSample, OutputSample, Reading, Sample
from unsloth_watch.model.verdict import State, Verdict
from unsloth_watch.waits.reduction import reduce_survey
from unsloth_watch.waits.scene import Doubt
from unsloth_watch.waits.wait import find_loop

pytestmark = pytest.mark.quick

SURVEYS = Path(__file__).parent.parent / "data" / "surveys"
HANGING = sorted(path.stem for path in SURVEYS.glob("hang_*.json"))
HEALTHY = sorted(path.stem for path in SURVEYS.glob("healthy_*.json"))
CHANNELS = {"hang_pipe_stderr": "pipe:[", "hang_socket_inside": "socket:[", "hang_pool_worker_killed": "pipe:["}


def read(name: str) -> list[Evidence]:
    """The recorded surveys of a program, 2 s apart."""
    return msgspec.json.decode((SURVEYS / f"{name}.json").read_bytes(), type=list[Evidence])


def prefixes(surveys: Sequence[Evidence]) -> Iterator[Sequence[Evidence]]:
    """Every run of surveys that the judge could hold."""
    for start in range(len(surveys)):
        for end in range(start + 1, len(surveys) + 1):
            yield surveys[start:end]


def change_process(survey: Evidence, pid: int, **changes: Any) -> Evidence:
    processes = (msgspec.structs.replace(one, **changes) if one.ref.pid == pid else one for one in survey.processes)
    return msgspec.structs.replace(survey, processes=tuple(processes))


def change_thread(survey: Evidence, pid: int, tid: int, **changes: Any) -> Evidence:
    process = next(one for one in survey.processes if one.ref.pid == pid)
    threads = tuple(msgspec.structs.replace(one, **changes) if one.tid == tid else one for one in process.threads)
    return change_process(survey, pid, threads=threads)


def root_of(survey: Evidence) -> ProcessEvidence:
    return next(one for one in survey.processes if one.ref == survey.root)


def test_there_are_recordings_of_both_kinds() -> None:
    assert len(HANGING) >= 12
    assert len(HEALTHY) >= 15


@pytest.mark.parametrize("name", HANGING)
def test_a_hang_is_proven_from_its_surveys(name: str) -> None:
    found = prove(read(name), is_gpu_idle=True)
    assert isinstance(found, Proof), found
    assert all("/proc/" in step or ".py" in step for step in found.steps)


@pytest.mark.parametrize("name", HEALTHY)
def test_what_can_still_be_woken_is_never_proven(name: str) -> None:
    for surveys in prefixes(read(name)):
        found = prove(surveys, is_gpu_idle=True)
        assert isinstance(found, Doubt), found


@pytest.mark.parametrize("name", HANGING)
def test_one_survey_proves_nothing_and_promises_to_look_again(name: str) -> None:
    for survey in read(name):
        found = prove([survey], is_gpu_idle=True)
        assert isinstance(found, Doubt)
        assert found.is_open


@pytest.mark.parametrize("name", HANGING)
def test_a_single_wake_up_of_anybody_cancels_the_proof(name: str) -> None:
    surveys = read(name)
    for process in surveys[-1].processes:
        for thread in process.threads:
            if (
                thread.state != "S"
                or thread.call in (None, "clock_nanosleep")
                or thread.vctx is None
                or thread.awaits_gil
                or find_loop(thread) is not None
            ):
                continue
            last = change_thread(surveys[-1], process.ref.pid, thread.tid, vctx=thread.vctx + 1)
            assert isinstance(prove([*surveys[:-1], last], is_gpu_idle=True), Doubt), (process.ref.pid, thread.name)


DOUBTS: list[tuple[str, Callable[[Evidence], Evidence]]] = [
    ("a thread runs", lambda one: change_thread(one, root_of(one).ref.pid, root_of(one).threads[0].tid, state="R")),
    ("a thread is in state D", lambda one: change_thread(one, root_of(one).ref.pid, root_of(one).threads[0].tid, state="D")),
    ("a thread could not be read", lambda one: change_thread(one, root_of(one).ref.pid, root_of(one).threads[0].tid, call=None)),
    (
        "it is frozen",
        lambda one: change_thread(one, root_of(one).ref.pid, root_of(one).threads[0].tid, wait_channel="do_freezer_trap"),
    ),
    ("a process could not be read", lambda one: change_process(one, root_of(one).ref.pid, missing=("stack: no permission",))),
    ("its descriptors could not be read", lambda one: change_process(one, root_of(one).ref.pid, descriptors=None)),
    ("a debugger has it", lambda one: change_process(one, root_of(one).ref.pid, tracer_pid=1)),
    ("it handles SIGUSR1", lambda one: change_process(one, root_of(one).ref.pid, signals_caught=1 << 9)),
    ("it handles SIGALRM", lambda one: change_process(one, root_of(one).ref.pid, signals_caught=1 << 13)),
    ("its handlers are unknown", lambda one: change_process(one, root_of(one).ref.pid, signals_caught=None)),
    ("it has a timer", lambda one: change_process(one, root_of(one).ref.pid, has_timers=True)),
    ("its timers are unknown", lambda one: change_process(one, root_of(one).ref.pid, has_timers=None)),
    (
        "it uses io_uring",
        lambda one: change_process(one, root_of(one).ref.pid, descriptors=(Descriptor(9, "anon_inode:[io_uring]"),)),
    ),
    ("somebody was not seen", lambda one: msgspec.structs.replace(one, missing=("PID 7: it ended before it could be looked at",))),
    ("the command is another", lambda one: msgspec.structs.replace(one, root=ProcessRef(1, 1))),
    ("a process came", lambda one: msgspec.structs.replace(one, processes=(*one.processes, newcomer(one)))),
]


def newcomer(survey: Evidence) -> ProcessEvidence:
    return msgspec.structs.replace(root_of(survey), ref=ProcessRef(999_999, 1), ppid=1)


@pytest.mark.parametrize(("why", "doubt"), DOUBTS, ids=[why for why, _ in DOUBTS])
def test_any_doubt_cancels_the_proof(why: str, doubt: Callable[[Evidence], Evidence]) -> None:
    surveys = read("hang_abba")
    assert isinstance(prove(surveys, is_gpu_idle=True), Proof)
    assert isinstance(prove([*surveys[:-1], doubt(surveys[-1])], is_gpu_idle=True), Doubt), why


@pytest.mark.parametrize("name", sorted(CHANNELS))
def test_an_outsider_at_the_other_end_cancels_the_proof_and_one_who_could_not_be_asked_does_too(name: str) -> None:
    surveys = read(name)
    last = surveys[-1]
    asked = {
        descriptor.target
        for process in last.processes
        for descriptor in process.descriptors or ()
        if descriptor.target.startswith(CHANNELS[name])
    }
    held = msgspec.structs.replace(last, outsiders=tuple(Outsider(target, 1, 2) for target in asked))
    for changed in (
        held,
        msgspec.structs.replace(last, unseen=None),
        msgspec.structs.replace(last, unseen=3, is_sealed=False),
        msgspec.structs.replace(last, unseen=3, is_sealed=True, outside=tuple(asked)),
    ):
        assert isinstance(prove([*surveys[:-1], changed], is_gpu_idle=True), Doubt)
    sealed = msgspec.structs.replace(last, unseen=3, is_sealed=True)
    assert isinstance(prove([*surveys[:-1], sealed], is_gpu_idle=True), Proof)


def test_a_pipe_without_any_end_in_sight_has_one_out_of_sight() -> None:
    surveys = read("hang_pipe_end_kept")
    main = root_of(surveys[-1])
    fd = main.threads[0].wait_fds[0]
    reader = tuple(one for one in main.descriptors or () if one.fd == fd)
    assert len(main.descriptors or ()) > len(reader) == 1
    without = [change_process(one, main.ref.pid, descriptors=reader) for one in surveys]
    assert isinstance(prove(surveys, is_gpu_idle=True), Proof)
    assert isinstance(prove(without, is_gpu_idle=True), Doubt)


def test_who_may_only_read_a_pipe_cannot_answer_on_it() -> None:
    surveys = read("hang_pipe_stderr")
    last, main = surveys[-1], root_of(surveys[-1])
    assert main.threads[0].call == "read"
    (pipe,) = (one.target for one in main.descriptors or () if one.fd == main.threads[0].wait_fds[0])
    for mode, kind in ((0, Proof), (1, Doubt), (2, Doubt), (None, Doubt)):
        held = msgspec.structs.replace(last, outsiders=(Outsider(pipe, 1, mode),))
        assert isinstance(prove([*surveys[:-1], held], is_gpu_idle=True), kind), mode


def with_neighbour(surveys: Sequence[Evidence], **changes: Any) -> list[Evidence]:
    """The surveys with a further process, which rests all the time."""
    return [
        msgspec.structs.replace(one, processes=(*one.processes, msgspec.structs.replace(newcomer(one), **changes)))
        for one in surveys
    ]


@pytest.mark.parametrize(
    ("name", "changes"),
    [("it is called by SIGALRM", {"signals_caught": 1 << 13}), ("it has a timer", {"has_timers": True})],
)
def test_whoever_a_clock_may_call_may_end_the_child_that_is_waited_for(name: str, changes: dict[str, Any]) -> None:
    surveys = read("hang_grandchild")
    assert isinstance(prove(with_neighbour(surveys), is_gpu_idle=True), Proof)
    found = prove(with_neighbour(surveys, **changes), is_gpu_idle=True)
    assert isinstance(found, Doubt), name
    assert "may send the signal" in found.why


def test_who_waits_for_the_command_alone_is_nobody_whom_a_signal_would_help() -> None:
    surveys = read("hang_abba")
    assert isinstance(prove(with_neighbour(surveys, signals_caught=1 << 13), is_gpu_idle=True), Proof)


def test_a_device_that_may_be_busy_cancels_the_proof() -> None:
    surveys = read("hang_abba")
    with_gpu = [change_process(one, root_of(one).ref.pid, descriptors=(Descriptor(9, "/dev/nvidia0"),)) for one in surveys]
    assert isinstance(prove(with_gpu, is_gpu_idle=True), Proof)
    assert isinstance(prove(with_gpu, is_gpu_idle=False), Doubt)


def test_a_stopped_process_with_a_terminal_is_left_to_its_user() -> None:
    surveys = read("hang_stop_child")
    stopped = next(one for one in surveys[0].processes if one.state == "T")
    with_terminal = [change_process(one, stopped.ref.pid, is_background=True) for one in surveys]
    assert isinstance(prove(with_terminal, is_gpu_idle=True), Doubt)


def test_a_proof_from_a_stopped_process_or_a_loop_takes_a_longer_look() -> None:
    for name in ("hang_stop_child", "hang_dataloader_worker_stuck"):
        surveys = read(name)
        short = prove(surveys[:2], is_gpu_idle=True)
        assert isinstance(short, Doubt)
        assert short.is_open


def stand_still(surveys: Sequence[Evidence], function: str) -> list[Evidence]:
    """The surveys with a loop's threads as they were at the first of them."""
    first = {(one.ref.pid, thread.tid): thread for one in surveys[0].processes for thread in one.threads}
    still = []
    for survey in surveys:
        changed = survey
        for process in survey.processes:
            for thread in process.threads:
                if any(frame.function.endswith(function) for frame in thread.frames):
                    before = first[process.ref.pid, thread.tid]
                    changed = change_thread(changed, process.ref.pid, thread.tid, vctx=before.vctx, cpu_s=before.cpu_s)
        still.append(changed)
    return still


def test_a_loop_whose_time_out_may_be_the_users_own_must_be_seen_to_go_back() -> None:
    still = stand_still(read("hang_dataloader_worker_stuck"), "_try_get_data")
    found = prove(still, is_gpu_idle=True)
    assert isinstance(found, Doubt)
    assert found.is_open


def test_a_loop_whose_time_out_always_leads_back_need_not_be_seen_to() -> None:
    surveys = read("hang_dataloader_worker_stuck")
    still = stand_still(surveys, "_worker_loop")
    assert still != surveys
    assert isinstance(prove(still, is_gpu_idle=True), Proof)


def test_reducing_a_survey_twice_changes_nothing_and_it_still_proves_the_same() -> None:
    for name in HANGING:
        surveys = read(name)
        again = [reduce_survey(survey) for survey in surveys]
        assert again == surveys, name


# The judge ------------------------------------------------------------------------------------------------------------------------


def tick(at: float, root: ProcessRef, **more: Any) -> Sample:
    plain = ProcessSample(
        ref=root, ppid=1, comm="python", state="S", utime_s=more.pop("cpu_s", 5.0), stime_s=0.0, reaped_cpu_s=0.0, minflt=0, majflt=0,
        reaped_minflt=0, threads=2, rss_bytes=1 << 20, vctx=0, nvctx=0, rchar=0, wchar=0, syscr=0, syscw=0, read_bytes=0,
        write_bytes=0, has_gpu=False,
    )  # fmt: skip
    more.setdefault("output", OutputSample(0, 0))
    more.setdefault("gpus", ())
    return Sample(at=at, wall=at, processes=(plain,), files=(), connections=(), **more)


def run(name: str, seconds: int, more: Callable[[int], dict[str, Any]] = lambda at: {}, stall_s: float = 180.0) -> list[Verdict]:
    """Let the judge watch a program whose surveys are those of a recording, served as it asks for them."""
    recorded = read(name)
    verdicts: list[Verdict] = []
    memory, taken, pending = Memory(), 0, False
    for at in range(seconds):
        surveys: tuple[Evidence, ...] = ()
        if pending:
            survey = recorded[min(taken, len(recorded) - 1)]
            surveys, taken = (msgspec.structs.replace(survey, at=at - 0.9),), taken + 1
        memory, verdict = judge(
            memory, tick(float(at), recorded[0].root or ProcessRef(1, 1), surveys=surveys, **more(at)), Rules(stall_s=stall_s)
        )
        pending = verdict.wants_survey
        verdicts.append(verdict)
    return verdicts


def test_a_proven_hang_is_hung_at_once_whatever_the_limit() -> None:
    verdicts = run("hang_abba", 12, stall_s=3600.0)
    proven = next(verdict for verdict in verdicts if verdict.is_proven)
    assert proven.at <= 7
    assert proven.state is State.HUNG
    assert proven.proof[-1] in proven.reasons
    assert not proven.doubt
    assert all(
        verdict.is_proven and verdict.state is State.HUNG and not verdict.wants_survey for verdict in verdicts[int(proven.at) :]
    )


def test_a_loop_that_is_about_to_be_seen_to_go_back_is_looked_at_each_second() -> None:
    verdicts = run("hang_dataloader_worker_stuck", 9)
    asked = [verdict.at for verdict in verdicts if verdict.wants_survey]
    assert asked == [2, 4, 5, 6]
    assert verdicts[-1].is_proven


def test_a_working_job_is_not_surveyed() -> None:
    busy = run("hang_abba", 40, lambda at: {"cpu_s": 5.0 + at})
    stepping = run("hang_abba", 40, lambda at: {"output": OutputSample(0, 0, (Reading("a", "step", at, 100),))})
    assert not any(verdict.wants_survey for verdict in (*busy, *stepping))


@pytest.mark.parametrize("moment", range(3, 8))
def test_progress_between_the_surveys_discards_the_earlier_one_and_after_the_proof_the_proof(moment: int) -> None:
    def step(at: int) -> dict[str, Any]:
        return {"output": OutputSample(0, 0, (Reading("a", "step", at, 100),) if at in (0, 1, moment) else ())}

    verdicts = run("hang_abba", 20, step)
    assert not verdicts[moment].is_proven
    assert verdicts[moment].state is State.PROGRESSING
    later = [verdict.at for verdict in verdicts[moment:] if verdict.is_proven]
    assert later
    assert later[0] >= moment + 4


def test_a_gap_in_the_time_discards_what_was_seen_before() -> None:
    verdicts = run("hang_abba", 20, lambda at: {"gap_s": 1.0} if at == 4 else {})
    assert min(verdict.at for verdict in verdicts if verdict.is_proven) >= 8


def test_surveys_get_rarer_while_the_same_doubt_stands() -> None:
    verdicts = run("healthy_clock_thread", 170, stall_s=3600.0)
    asked = [verdict.at for verdict in verdicts if verdict.wants_survey]
    assert not any(verdict.is_proven for verdict in verdicts)
    assert 3 <= len(asked) <= 12
    assert asked[-1] - asked[-2] >= 30
    assert "sleeps" in verdicts[-1].doubt


def test_a_job_that_rests_again_and_again_is_surveyed_eight_times_a_minute_at_most() -> None:
    verdicts = run("healthy_clock_thread", 120, lambda at: {"output": OutputSample(0, 0, (Reading("a", "step", at // 4, 100),))})
    asked = [verdict.at for verdict in verdicts if verdict.wants_survey]
    assert all(sum(1 for one in asked if at <= one < at + 60) <= 8 for at in range(60))


def test_an_idle_device_is_one_that_is_known_to_be_idle() -> None:
    root = ProcessRef(1, 1)
    without = tick(0, root, gpus=None)
    held = msgspec.structs.replace(without, processes=(msgspec.structs.replace(without.processes[0], has_gpu=True),))
    assert is_gpu_idle(without)
    assert not is_gpu_idle(held)
    assert not is_gpu_idle(msgspec.structs.replace(held, gpus=(GpuSample(0, "GPU-1"),)))
    assert not is_gpu_idle(msgspec.structs.replace(held, gpus=(GpuSample(0, "GPU-1", utilization=100.0),)))
    assert is_gpu_idle(msgspec.structs.replace(held, gpus=(GpuSample(0, "GPU-1", utilization=0.0),)))
