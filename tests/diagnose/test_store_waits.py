"""Waits for the store of ``torch.distributed``, on captures of real ranks: who is missing, and who is only late."""

from __future__ import annotations

import msgspec
import pytest

from diagnose.recordedcases import HUNG, case_of, replace
from unsloth_watch.diagnose import Case, diagnose
from unsloth_watch.model.diagnosis import Status
from unsloth_watch.model.evidence import ProcessEvidence, ThreadEvidence
from unsloth_watch.model.verdict import Verdict

pytestmark = pytest.mark.quick


def change_main(process: ProcessEvidence, **changes: object) -> ProcessEvidence:
    """Return a process whose main thread is changed."""
    return msgspec.structs.replace(
        process,
        threads=tuple(msgspec.structs.replace(one, **changes) if one.is_main else one for one in process.threads),
    )


def rename_threads(process: ProcessEvidence, before: str, after: str) -> ProcessEvidence:
    def rename(thread: ThreadEvidence) -> ThreadEvidence:
        return msgspec.structs.replace(thread, name=after) if thread.name == before else thread

    return msgspec.structs.replace(process, threads=tuple(map(rename, process.threads)))


def ranks_of(case: Case) -> list[ProcessEvidence]:
    return [process for process in case.processes if process.environment]


def test_the_rank_that_never_came_is_named_by_its_number():
    diagnosis = diagnose(case_of("zoo-hang_gloo_world_size", HUNG))
    assert diagnosis.culprit is not None
    assert (diagnosis.culprit.kind, diagnosis.culprit.rank, diagnosis.culprit.pid) == ("rank", 2, None)
    assert "rank 2 of 3 is not there" in diagnosis.summary
    assert any("MASTER_PORT=" in item.statement for item in diagnosis.evidence)
    assert any("WORLD_SIZE" in remedy.advice for remedy in diagnosis.remedies)


def test_a_rank_that_is_caught_awake_while_it_looks_for_the_others_waits_all_the_same():
    case = case_of("zoo-hang_gloo_world_size", HUNG)
    awake = ranks_of(case)[0]
    processes = tuple(
        change_main(process, state="R", call=None, wait=None) if process is awake else process for process in case.processes
    )
    assert diagnose(replace(case, processes=processes)).summary == diagnose(case).summary


def test_many_missing_ranks_are_told_as_a_row():
    case = case_of("zoo-hang_gloo_world_size", HUNG)
    wider = tuple(
        msgspec.structs.replace(process, environment={**(process.environment or {}), "WORLD_SIZE": "16"})
        if process.environment
        else process
        for process in case.processes
    )
    diagnosis = diagnose(replace(case, processes=wider))
    assert "each of the ranks 2–15 of 16" in diagnosis.summary
    assert diagnosis.culprit is not None
    assert diagnosis.culprit.rank is None


def test_a_dead_rank_is_named_by_its_process():
    case = case_of("zoo-hang_store_barrier", HUNG)
    dead = next(process.ref.pid for process in case.processes if process.state == "Z")
    diagnosis = diagnose(case)
    assert diagnosis.culprit is not None
    assert diagnosis.culprit.pid == dead
    assert f"PID {dead} is not there: it has died" in diagnosis.summary


def test_a_zombie_of_somebody_else_is_no_dead_rank():
    case = case_of("zoo-hang_store_barrier", HUNG)
    waiter = next(process for process in case.processes if "gather_metrics" in str(process.threads))
    others = tuple(
        msgspec.structs.replace(process, ppid=waiter.ref.pid) if process.state == "Z" else process for process in case.processes
    )
    diagnosis = diagnose(replace(case, processes=others))
    assert diagnosis.cause == "collective-mismatch"
    assert "has died" not in diagnosis.summary.replace("never started, has died", "")


def test_the_store_tells_how_many_are_connected_to_it():
    diagnosis = diagnose(case_of("zoo-hang_store_get", HUNG))
    assert any("serves the store, and 1 client is connected" in item.statement for item in diagnosis.evidence)


def test_a_connection_to_any_other_thread_is_no_store():
    case = case_of("zoo-hang_store_get", HUNG)
    other = tuple(rename_threads(process, "pt_tcpstore_uv", "server") for process in case.processes)
    assert diagnose(replace(case, processes=other)).cause != "collective-mismatch"


@pytest.mark.parametrize("verdict", [None, HUNG])
def test_a_rank_that_computes_is_late_and_not_missing(verdict: Verdict | None):
    case = case_of("zoo-hang_gloo_world_size", verdict)
    busy = ranks_of(case)[0]
    # Rank 0 computes in the user's own code, and the other one asks the store for what it will write.
    frames = tuple(frame for frame in busy.threads[0].frames if "/torch/" not in frame.file)
    late = tuple(
        change_main(process, state="R", call=None, wait=None, frames=frames) if process is busy else process
        for process in case.processes
    )
    diagnosis = diagnose(replace(case, processes=late))
    assert diagnosis.status in {Status.HYPOTHESIS, Status.UNKNOWN}
    assert "is not there" not in diagnosis.summary
    waiting = diagnose(replace(case, processes=late[1:], root=ranks_of(case)[1].ref))
    assert (waiting.cause, waiting.culprit and waiting.culprit.pid) == ("collective-mismatch", busy.ref.pid)
    assert waiting.status is not Status.ESTABLISHED


def test_a_store_that_has_answered_before_is_not_blamed_on_the_network():
    case = case_of("zoo-hang_gloo_world_size", HUNG)
    rank = ranks_of(case)[1]  # as a supervisor of the second machine sees it: the store is somebody else's
    alone = replace(case, processes=(rank,), root=rank.ref)
    diagnosis = diagnose(alone)
    assert diagnosis.cause == "collective-mismatch"
    assert "each of the ranks 0, 2 of 3 is not there" in diagnosis.summary


def test_what_listens_where_the_store_should_be_is_named_with_what_to_check():
    diagnosis = diagnose(case_of("zoo-hang_gloo_wrong_master", HUNG))
    assert diagnosis.cause == "network-stall"
    assert any("MASTER_ADDR" in remedy.advice for remedy in diagnosis.remedies)


@pytest.mark.parametrize(("name", "option"), [("torchrun", "--rdzv-endpoint="), ("accelerate", "--main_process_port=")])
def test_a_machine_that_never_joined_is_told_with_the_place_of_the_meeting(name: str, option: str):
    case = case_of(f"zoo-hang_{name}_node_missing", HUNG)
    told = next(word.partition("=")[2] for word in case.processes[0].command or () if word.startswith(option))
    diagnosis = diagnose(case)
    assert "another machine of 2 is not there" in diagnosis.summary
    assert told.rpartition(":")[2] in diagnosis.summary
    assert any("start the same command on every machine" in remedy.advice for remedy in diagnosis.remedies)
