"""Rules that follow the waits-for graph, on captures of the zoo's programs that really hung."""

from __future__ import annotations

import re

import msgspec
import pytest

from diagnose.recordedcases import CAPTURES, HUNG, Recorded, case_of, replace
from unsloth_watch.diagnose import Case, diagnose
from unsloth_watch.model.diagnosis import Status
from unsloth_watch.model.evidence import Descriptor, ProcessEvidence, ThreadEvidence

pytestmark = pytest.mark.quick

EXPECTED = [
    ("abba", "thread-deadlock", Status.ESTABLISHED, "save"),
    ("three_locks", "thread-deadlock", Status.SUPPORTED, "stage"),
    ("self_lock", "thread-deadlock", Status.ESTABLISHED, "on_save"),
    ("signal_handler", "thread-deadlock", Status.ESTABLISHED, "dump_state"),
    ("native_mutex", "thread-deadlock", Status.ESTABLISHED, "flush"),
    ("native_mutex_gil", "thread-deadlock", Status.ESTABLISHED, "flush"),
    ("fork_lock", "fork-deadlock", Status.ESTABLISHED, "read_cache"),
    ("fork_handler_lock", "fork-deadlock", Status.ESTABLISHED, "write_row"),
    ("datasets_map_fork", "fork-deadlock", Status.ESTABLISHED, "count_tokens"),
    ("dataloader_fork_openmp", "fork-deadlock", Status.ESTABLISHED, "__getitem__"),
    ("pool_worker_killed", "lost-worker", Status.ESTABLISHED, "main"),
    ("queue_dead_process", "lost-worker", Status.ESTABLISHED, "main"),
    ("torch_queue_worker_killed", "lost-worker", Status.ESTABLISHED, "main"),
    ("mp_lock_killed", "lost-worker", Status.SUPPORTED, "main"),
    ("dataloader_worker_stuck", "stuck-worker", Status.SUPPORTED, "load_row"),
    ("grandchild", "stuck-worker", Status.ESTABLISHED, "convert_layer"),
    ("flock_inside", "stuck-worker", Status.SUPPORTED, "build"),
    ("socket_inside", "stuck-worker", Status.SUPPORTED, "serve"),
    ("pipe_stdout", "pipe-deadlock", Status.ESTABLISHED, "convert"),
    ("pipe_stderr", "pipe-deadlock", Status.ESTABLISHED, "quantize"),
    ("pipe_stdin", "pipe-deadlock", Status.ESTABLISHED, "tokenize_all"),
    ("queue_feeder", "pipe-deadlock", Status.ESTABLISHED, "main"),
    ("event", "abandoned-wait", Status.SUPPORTED, "wait_for_save"),
    ("condition", "abandoned-wait", Status.SUPPORTED, "wait_for_weights"),
    ("semaphore", "abandoned-wait", Status.SUPPORTED, "upload"),
    ("barrier", "abandoned-wait", Status.SUPPORTED, "run_shard"),
    ("executor_nested", "abandoned-wait", Status.SUPPORTED, "save"),
    ("sigwait", "abandoned-wait", Status.SUPPORTED, "wait_for_helper"),
    ("queue_dead_thread", "abandoned-wait", Status.SUPPORTED, "main"),
    ("fifo", "abandoned-wait", Status.SUPPORTED, "main"),
    ("gloo_mismatch", "collective-mismatch", Status.ESTABLISHED, "evaluate"),
    ("gloo_rank_stuck", "collective-mismatch", Status.ESTABLISHED, "next_shard"),
    ("gloo_rank_missing", "collective-mismatch", Status.SUPPORTED, "main"),
    ("exit_atexit", "exit-stall", Status.ESTABLISHED, "send"),
    ("exit_executor", "exit-stall", Status.ESTABLISHED, "flush_metrics"),
    ("exit_thread", "exit-stall", Status.ESTABLISHED, "upload_checkpoints"),
    ("import_cycle", "import-deadlock", Status.ESTABLISHED, "<module>"),
    ("asyncio_future", "async-stall", Status.SUPPORTED, "main"),
    ("asyncio_locks", "async-stall", Status.SUPPORTED, "main"),
    ("executor_worker_stopped", "process-stopped", Status.ESTABLISHED, ""),
    ("rlock_future", "thread-deadlock", Status.ESTABLISHED, "checkpoint"),
    ("gil_mutex", "thread-deadlock", Status.ESTABLISHED, "right"),
    ("os_fork", "fork-deadlock", Status.ESTABLISHED, "emit"),
    ("queue_full", "lost-worker", Status.SUPPORTED, "produce"),
    ("mp_barrier", "lost-worker", Status.SUPPORTED, "meet"),
    ("manager_queue", "lost-worker", Status.SUPPORTED, "main"),
    ("manager_lock", "stuck-worker", Status.SUPPORTED, ""),
    ("two_flocks", "stuck-worker", Status.ESTABLISHED, "lock"),
    ("log_pipe", "pipe-deadlock", Status.SUPPORTED, "run_tool"),
    ("kept_by_daemon", "pipe-deadlock", Status.SUPPORTED, "collect"),
    ("async_process", "pipe-deadlock", Status.ESTABLISHED, "main"),
    ("async_thread", "abandoned-wait", Status.SUPPORTED, "wait_for_gpu"),
    ("store_get", "collective-mismatch", Status.SUPPORTED, "meet_rank_1"),
    ("store_barrier", "collective-mismatch", Status.SUPPORTED, "gather_metrics"),
    ("gloo_world_size", "collective-mismatch", Status.SUPPORTED, "rank"),
    ("accelerate_node_missing", "collective-mismatch", Status.SUPPORTED, ""),
    ("torchrun_node_missing", "collective-mismatch", Status.SUPPORTED, ""),
    ("accelerate_wait", "collective-mismatch", Status.ESTABLISHED, "next_shard"),
    ("sqlite_inside", "stuck-worker", Status.SUPPORTED, "keep_open"),
    ("sqlite_self", "thread-deadlock", Status.SUPPORTED, "save_trial"),
    ("rank_exit", "collective-mismatch", Status.ESTABLISHED, "prefetch"),
    ("child_server", "stuck-worker", Status.SUPPORTED, "serve"),
    ("http_callback", "stuck-worker", Status.SUPPORTED, "do_POST"),
    ("join_timeout", "abandoned-wait", Status.SUPPORTED, "save"),
    ("mp_lock_parent", "stuck-worker", Status.SUPPORTED, "tokenize"),
]


def zoo(name: str, verdict: object = HUNG) -> Case:
    return case_of(f"zoo-hang_{name}", verdict)  # type: ignore[arg-type]


def map_threads(case: Case, change: object) -> Case:
    """Return a case in which every thread is changed."""
    assert callable(change)
    processes = tuple(
        msgspec.structs.replace(process, threads=tuple(change(process, thread) for thread in process.threads))
        for process in case.processes
    )
    return replace(case, processes=processes)


@pytest.mark.parametrize(("name", "cause", "status", "function"), EXPECTED, ids=[row[0] for row in EXPECTED])
def test_the_cause_its_firmness_and_the_culprits_frame_are_found(name: str, cause: str, status: Status, function: str) -> None:
    diagnosis = diagnose(zoo(name))
    assert (diagnosis.cause, diagnosis.status) == (cause, status)
    assert not any("the rule itself failed" in other for other in diagnosis.alternatives)
    assert diagnosis.culprit is not None
    if function:
        assert diagnosis.culprit.frame is not None
        assert diagnosis.culprit.frame.partition(" (")[0].rpartition(".")[2] == function
    assert diagnosis.refuted_by
    assert diagnosis.evidence
    assert all(statement.source for statement in diagnosis.evidence)
    assert diagnosis.remedies


@pytest.mark.parametrize("name", [row[0] for row in EXPECTED])
def test_the_fingerprint_knows_no_process_ids_addresses_and_temporary_names(name: str) -> None:
    text = (CAPTURES / f"zoo-hang_{name}.json").read_text()
    recorded = msgspec.json.decode(text, type=Recorded)
    pids = sorted({process.ref.pid for process in recorded.evidence.processes} | {
        thread.tid for process in recorded.evidence.processes for thread in process.threads
    }, reverse=True)  # fmt: skip
    for pid in pids:
        text = re.sub(rf"(?<!\d){pid}(?!\d)", str(pid + 100_000), text)
    text = re.sub(r"0x7f([0-9a-f]{6})", r"0x7e\1", text)
    text = re.sub(r"(pipe|socket):\[(\d+)\]", lambda match: f"{match[1]}:[{int(match[2]) + 7}]", text)
    text = text.replace("/home/user/job", "/tmp/pytest-77/other").replace(f'"name":"zoo-hang_{name}"', '"name":"x"')
    other = msgspec.json.decode(text, type=Recorded)
    assert {process.ref.pid for process in other.evidence.processes}.isdisjoint(pids)
    first = diagnose(Case(recorded.evidence, HUNG, recorded.looks))
    second = diagnose(Case(other.evidence, HUNG, other.looks))
    assert (first.cause, first.fingerprint) == (second.cause, second.fingerprint)


def test_different_hangs_have_different_fingerprints() -> None:
    prints = {diagnose(zoo(row[0])).fingerprint for row in EXPECTED}
    assert len(prints) == len(EXPECTED)


def test_without_source_lines_two_lock_waiters_are_no_more_than_supported() -> None:
    case = map_threads(zoo("abba"), lambda _, thread: msgspec.structs.replace(thread, lines=()))
    diagnosis = diagnose(case)
    assert (diagnosis.cause, diagnosis.status) == ("thread-deadlock", Status.SUPPORTED)


def test_a_mutex_that_names_no_owner_is_supported_only() -> None:
    case = map_threads(zoo("native_mutex"), lambda _, thread: msgspec.structs.replace(thread, mutex_owner=None))
    assert diagnose(case).status is Status.SUPPORTED


def test_a_lock_in_a_process_that_was_not_forked_is_no_fork_deadlock() -> None:
    case = zoo("fork_lock")

    def spawn(process: ProcessEvidence, thread: ThreadEvidence) -> ThreadEvidence:
        frames = tuple(frame for frame in thread.frames if "popen_fork" not in frame.file)
        return msgspec.structs.replace(thread, frames=frames) if process.ppid == case.processes[0].ref.pid else thread

    processes = tuple(
        msgspec.structs.replace(process, command=(*(process.command or ()), "--multiprocessing-fork"))
        if process.ppid == case.processes[0].ref.pid
        else process
        for process in map_threads(case, spawn).processes
    )
    assert diagnose(replace(case, processes=processes)).cause == "stuck-worker"


def test_an_unread_pipe_without_a_body_is_a_pipe_that_was_kept_open() -> None:
    case = zoo("queue_dead_process")
    living = tuple(process for process in case.processes if process.state != "Z")
    assert len(living) < len(case.processes)
    diagnosis = diagnose(replace(case, processes=living))
    assert (diagnosis.cause, diagnosis.status) == ("pipe-deadlock", Status.SUPPORTED)


def test_how_a_worker_ended_is_said() -> None:
    assert "was killed by signal 9" in diagnose(zoo("torch_queue_worker_killed")).summary


def test_a_full_pipe_whose_reader_runs_is_no_deadlock() -> None:
    case = zoo("pipe_stdout")
    root = case.processes[0].ref.pid
    running = map_threads(
        case, lambda process, thread: msgspec.structs.replace(thread, state="R") if process.ref.pid == root else thread
    )
    assert diagnose(running).cause != "pipe-deadlock"


def rename_lock(case: Case, name: str) -> Case:
    """Return a case in which the source calls its lock otherwise."""

    def change(_: ProcessEvidence, thread: ThreadEvidence) -> ThreadEvidence:
        lines = tuple(
            msgspec.structs.replace(
                line, text=line.text.replace("with lock", f"with {name}"), holds=tuple(name for _ in line.holds)
            )
            for line in thread.lines
        )
        return msgspec.structs.replace(thread, lines=lines)

    return map_threads(case, change)


def test_the_lock_of_an_object_may_be_that_of_another_one() -> None:
    assert diagnose(rename_lock(zoo("self_lock"), "model_lock")).status is Status.ESTABLISHED
    diagnosis = diagnose(rename_lock(zoo("self_lock"), "self.lock"))
    assert (diagnosis.cause, diagnosis.status) == ("thread-deadlock", Status.SUPPORTED)


def test_a_reentrant_lock_is_never_waited_for_by_its_own_thread() -> None:
    case = map_threads(
        zoo("self_lock"),
        lambda _, thread: msgspec.structs.replace(
            thread,
            frames=tuple(
                msgspec.structs.replace(frame, function=frame.function.replace("lock_PyThread_acquire_lock", "rlock_acquire"))
                for frame in thread.frames
            ),
        ),
    )
    assert diagnose(case).status is not Status.ESTABLISHED


def test_a_wait_is_established_by_the_judges_proof_alone() -> None:
    proven = msgspec.structs.replace(HUNG, is_proven=True)
    assert diagnose(zoo("event", proven)).status is Status.ESTABLISHED


def test_one_look_at_a_wait_that_a_signal_may_end_is_a_hypothesis() -> None:
    case = zoo("event", None)
    assert diagnose(case).status is Status.SUPPORTED
    alarm = tuple(msgspec.structs.replace(process, signals_caught=1 << 13) for process in case.processes)
    assert diagnose(replace(case, processes=alarm)).status is Status.HYPOTHESIS


def test_a_rank_that_is_late_is_no_more_than_a_hypothesis_while_it_computes() -> None:
    case = zoo("gloo_rank_stuck", None)
    late = map_threads(
        case,
        lambda _, thread: msgspec.structs.replace(thread, state="R") if "next_shard" in str(thread.frames) else thread,
    )
    diagnosis = diagnose(late)
    assert (diagnosis.cause, diagnosis.status) == ("collective-mismatch", Status.HYPOTHESIS)


def test_a_main_thread_that_is_still_in_its_script_is_not_exiting() -> None:
    case = zoo("exit_atexit")
    module = next(frame for frame in zoo("event").processes[0].threads[0].frames if frame.function == "<module>")
    inside = map_threads(
        case, lambda _, thread: msgspec.structs.replace(thread, frames=(*thread.frames, module)) if thread.is_main else thread
    )
    assert diagnose(inside).cause != "exit-stall"


def test_a_loop_with_a_timer_is_no_stall() -> None:
    case = map_threads(
        zoo("asyncio_future"),
        lambda _, thread: msgspec.structs.replace(thread, wait=(thread.wait or "").replace("no timeout", "timeout 5 s")),
    )
    assert diagnose(case).cause != "async-stall"


def test_the_openmp_team_of_a_forked_worker_is_mended_by_one_thread() -> None:
    remedies = diagnose(zoo("dataloader_fork_openmp")).remedies
    assert remedies[0].environment == {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def test_a_map_that_forks_is_told_to_use_one_process() -> None:
    assert any("num_proc=1" in remedy.advice for remedy in diagnose(zoo("datasets_map_fork")).remedies)


def test_an_eventfd_of_native_code_is_a_wait_for_somebody_and_not_unknown() -> None:
    def poll(process: ProcessEvidence, thread: ThreadEvidence) -> ThreadEvidence:
        wait = "polls fd 99 → anon_inode:[eventfd], no timeout"
        return msgspec.structs.replace(thread, call="poll", wait=wait, wait_fds=(99,)) if thread.is_main else thread

    case = map_threads(zoo("event"), poll)
    own = Descriptor(99, "anon_inode:[eventfd]", peer="eventfd 8")
    processes = tuple(msgspec.structs.replace(one, descriptors=(*(one.descriptors or ()), own)) for one in case.processes)
    frames = tuple(frame for frame in processes[0].threads[0].frames if "threading.py" not in frame.file and not frame.is_native)
    case = map_threads(
        replace(case, processes=processes), lambda _, one: msgspec.structs.replace(one, frames=frames) if one.is_main else one
    )
    diagnosis = diagnose(case)
    assert (diagnosis.cause, diagnosis.status) == ("abandoned-wait", Status.HYPOTHESIS)
    assert diagnose(msgspec.structs.replace(case, verdict=None)).cause == "unknown"


def test_a_queue_of_another_process_that_is_no_manager_does_not_blame_a_dead_child() -> None:
    def leave(_: ProcessEvidence, thread: ThreadEvidence) -> ThreadEvidence:
        frames = tuple(frame for frame in thread.frames if "managers.py" not in frame.file)
        return msgspec.structs.replace(thread, frames=frames)

    assert diagnose(map_threads(zoo("manager_queue"), leave)).cause != "lost-worker"
