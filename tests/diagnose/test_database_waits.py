"""Waits for a database of SQLite, on captures of real ones: who is in the way, and what is no such wait."""

from __future__ import annotations

import msgspec
import pytest

from diagnose.recordedcases import HUNG, case_of, replace
from unsloth_watch.diagnose import Case, diagnose
from unsloth_watch.diagnose.database import find_database_waits
from unsloth_watch.model.diagnosis import Status
from unsloth_watch.model.evidence import Frame

pytestmark = pytest.mark.quick

OUTSIDE = "zoo-hang_sqlite_outside"
INSIDE = "zoo-hang_sqlite_inside"
SELF = "zoo-hang_sqlite_self"


def change_locks(case: Case, **changes: object) -> Case:
    return replace(case, locks=tuple(msgspec.structs.replace(lock, **changes) for lock in case.evidence.locks))


def change_main(case: Case, **changes: object) -> Case:
    root = case.processes[0]
    threads = tuple(msgspec.structs.replace(thread, **changes) if thread.is_main else thread for thread in root.threads)
    return replace(case, processes=(msgspec.structs.replace(root, threads=threads), *case.processes[1:]))


def drop_natives(case: Case) -> Case:
    return change_main(case, frames=tuple(frame for frame in case.processes[0].threads[0].frames if not frame.is_native))


def test_the_database_and_its_holder_outside_are_named():
    diagnosis = diagnose(case_of(OUTSIDE, HUNG))
    assert diagnosis.culprit is not None
    assert (diagnosis.culprit.path or "").endswith("/trials.db")
    assert "outside.py" in (diagnosis.culprit.peer or "")
    assert any(remedy.advice == f"kill {diagnosis.culprit.pid}" for remedy in diagnosis.remedies)


def test_the_write_ahead_log_is_told_as_the_database_it_belongs_to():
    case = case_of(INSIDE, HUNG)
    assert any((lock.path or "").endswith("-shm") and lock.mode == "WRITE" for lock in case.evidence.locks)
    diagnosis = diagnose(case)
    assert diagnosis.culprit is not None
    assert (diagnosis.culprit.path or "").endswith("/trials.db")
    assert diagnosis.culprit.pid == case.processes[1].ref.pid


def test_readers_alone_are_no_more_than_supported():
    diagnosis = diagnose(change_locks(case_of(OUTSIDE, HUNG), mode="READ"))
    assert (diagnosis.cause, diagnosis.status) == ("lock-held-elsewhere", Status.SUPPORTED)


@pytest.mark.parametrize("name", [OUTSIDE, INSIDE, SELF])
def test_nobody_is_accused_before_the_judge_doubts_the_job(name: str):
    assert diagnose(case_of(name)).status in {Status.HYPOTHESIS, Status.UNKNOWN}


@pytest.mark.parametrize("name", [OUTSIDE, INSIDE, SELF])
def test_without_native_frames_a_nap_beside_a_locked_database_is_a_hypothesis(name: str):
    diagnosis = diagnose(drop_natives(case_of(name, HUNG)))
    assert (diagnosis.cause, diagnosis.status) == (diagnose(case_of(name, HUNG)).cause, Status.HYPOTHESIS)


@pytest.mark.parametrize("name", [OUTSIDE, INSIDE, SELF])
def test_other_bytes_of_the_file_are_no_lock_of_a_database(name: str):
    assert not list(find_database_waits(change_locks(case_of(name, HUNG), start=0)))
    assert not list(find_database_waits(change_locks(case_of(name, HUNG), start=None)))


@pytest.mark.parametrize("name", [OUTSIDE, INSIDE, SELF])
def test_a_holder_that_has_moved_on_is_not_waited_for(name: str):
    assert not list(find_database_waits(replace(case_of(name, HUNG), locks=())))


def test_a_long_sleep_or_a_statement_that_works_is_no_wait():
    case = case_of(OUTSIDE, HUNG)
    assert not list(find_database_waits(change_main(drop_natives(case), wait="sleeps for 30 s (clock_nanosleep)")))
    assert not list(find_database_waits(change_main(case, state="R", call=None, wait=None)))


def test_a_sleep_in_other_native_code_is_no_wait():
    case = case_of(OUTSIDE, HUNG)
    frames = tuple(
        Frame("backoff", "/usr/lib/libclient.so", None, is_native=True) if frame.is_native else frame
        for frame in case.processes[0].threads[0].frames
    )
    assert not list(find_database_waits(change_main(case, frames=frames)))


@pytest.mark.parametrize(("name", "who"), [(INSIDE, "PID "), (SELF, "the other connection")])
def test_who_has_the_transaction_open_is_told_to_end_it(name: str, who: str):
    diagnosis = diagnose(case_of(name, HUNG))
    assert any(f"have {who}" in remedy.advice and "commit or roll back" in remedy.advice for remedy in diagnosis.remedies)


def test_another_thread_of_the_process_may_still_end_the_transaction():
    case = case_of(SELF, HUNG)
    root = case.processes[0]
    other = msgspec.structs.replace(
        root.threads[0], tid=root.threads[0].tid + 1, name="Thread-1", is_main=False, call="futex", wait=None
    )
    two = replace(case, processes=(msgspec.structs.replace(root, threads=(*root.threads, other)),))
    diagnosis = diagnose(two)
    assert (diagnosis.cause, diagnosis.status) == ("thread-deadlock", Status.HYPOTHESIS)
