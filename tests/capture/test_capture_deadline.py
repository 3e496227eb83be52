"""Deadlines: what is late is abandoned, what is killed is reaped, and whose child is whose stays known."""

from __future__ import annotations

import os
import threading

import pytest

from unsloth_watch.capture import deadline as module
from unsloth_watch.capture.children import is_spawning, own_pids
from unsloth_watch.capture.command import run_command
from unsloth_watch.capture.deadline import Deadline, DeadlineError, within, within_each
from unsloth_watch.capture.pool import spread
from unsloth_watch.capture.waits import read_states
from waiting import until


@pytest.mark.quick
def test_a_call_gives_its_value_or_raises_what_it_raised():
    assert within(5, pow, 2, 5) == 32
    with pytest.raises(ZeroDivisionError):
        within(5, divmod, 1, 0)


@pytest.mark.quick
def test_a_late_call_is_abandoned():
    release = threading.Event()
    with pytest.raises(DeadlineError, match="no answer within"):
        within(0.02, release.wait)
    release.set()


@pytest.mark.quick
def test_of_several_calls_each_has_its_own_fault_and_all_are_made():
    found: list[int] = []
    first, second, third = within_each(5, [lambda: found.append(1), lambda: found.append(1 // 0), lambda: found.append(3)])
    assert first is None
    assert isinstance(second, ZeroDivisionError)
    assert third is None
    assert found == [1, 3]


@pytest.mark.quick
def test_of_several_calls_one_that_is_late_costs_none_of_the_others():
    found: list[int] = []
    release = threading.Event()
    calls = [lambda: found.append(1), lambda: (release.wait(), found.append(2)), lambda: found.append(3)]
    faults = within_each(0.2, calls)
    assert isinstance(faults[1], DeadlineError)
    until(lambda: sorted(found) == [1, 3])  # on a loaded machine these may be late, too, and are made all the same
    release.set()
    until(lambda: sorted(found) == [1, 2, 3])


@pytest.mark.quick
def test_several_calls_of_which_none_can_be_begun_are_all_late(monkeypatch):
    monkeypatch.setattr(module, "MAX_ABANDONED", 0)
    faults = within_each(5, [int, int])
    assert [type(fault) for fault in faults] == [DeadlineError, DeadlineError]


@pytest.mark.quick
def test_no_further_call_starts_while_too_many_are_stuck(monkeypatch):
    monkeypatch.setattr(module, "MAX_ABANDONED", 2)
    release = threading.Event()
    for _ in range(2):
        with pytest.raises(DeadlineError, match="no answer"):
            within(0.01, release.wait)
    with pytest.raises(DeadlineError, match="still stuck"):
        within(5, pow, 2, 2)
    release.set()
    until(lambda: not [thread for thread in module._abandoned if thread.is_alive()])
    assert within(5, pow, 2, 2) == 4


def test_a_command_gives_status_and_both_outputs():
    outcome = run_command(["/bin/sh", "-c", "echo out; echo err >&2; exit 3"], 10)
    assert (outcome.rc, outcome.stdout, outcome.stderr) == (3, b"out\n", b"err\n")
    assert not outcome.timed_out
    assert own_pids() == frozenset()


def test_a_late_command_is_killed_with_its_children_and_reaped(tmp_path):
    fifo = tmp_path / "pid"
    outcome = run_command(["/bin/sh", "-c", f"sleep 500 & echo $! > {fifo}; wait"], 0.5)
    assert outcome.timed_out
    assert outcome.rc == -9
    child = int(fifo.read_text())
    until(lambda: set(read_states(child).values()) <= {"Z"})
    assert own_pids() == frozenset()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_grandchild_that_keeps_the_pipe_does_not_make_the_command_late():
    outcome = run_command(["/bin/sh", "-c", "sleep 500 & echo $!"], 0.5)
    assert not outcome.timed_out
    assert outcome.rc == 0
    until(lambda: set(read_states(int(outcome.stdout)).values()) <= {"Z"})


def test_output_beyond_the_limit_ends_the_command():
    outcome = run_command(["/bin/sh", "-c", "yes"], 30, limit=100_000)
    assert outcome.is_truncated
    assert len(outcome.stdout) == 100_000
    assert outcome.rc == -9


def test_a_missing_program_is_an_error_and_leaves_nothing():
    with pytest.raises(FileNotFoundError):
        run_command(["/nonexistent/py-spy"], 5)
    assert not is_spawning()
    assert own_pids() == frozenset()


def test_a_running_command_is_known_as_our_own_until_it_is_reaped(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    thread = threading.Thread(target=run_command, args=(["/bin/sh", "-c", f"echo $$ > {fifo}; cat {fifo}"], 30))
    thread.start()
    pid = int(fifo.read_text())
    assert is_spawning() or pid in own_pids()  # in this order: it is one or the other at every moment
    until(lambda: own_pids() == {pid})
    fifo.write_text("go on")
    thread.join(30)
    assert own_pids() == frozenset()


@pytest.mark.quick
def test_work_is_spread_in_order_and_faults_come_back_as_values():
    results = spread(lambda number: 10 // number, [1, 0, 5], Deadline(10))
    assert results[0] == 10
    assert isinstance(results[1], ZeroDivisionError)
    assert results[2] == 2


@pytest.mark.quick
def test_late_work_is_left_behind_and_the_rest_is_kept():
    release = threading.Event()
    results = spread(lambda number: number if number else release.wait() and 0, [1, 0, 2], Deadline(0.3), workers=2)
    assert results == [1, None, 2]
    release.set()
