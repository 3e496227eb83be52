"""Supervisor and guardian killed and stopped in every phase of a run, and in pairs: nobody is left behind, nothing is forgotten."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from faults.faulted import Faulted
from unsloth_watch.tell.events import read_events
from waiting import until

PHASES = ("running", "capturing", "terminating", "waiting")


def kill_supervisor(run: Faulted) -> None:
    os.kill(run.process.pid, signal.SIGKILL)


def hold_supervisor(run: Faulted) -> None:
    run.stop(run.process.pid)
    os.kill(run.process.pid, signal.SIGCONT)


def kill_guardian(run: Faulted) -> None:
    os.kill(run.guardian, signal.SIGKILL)


def stop_guardian(run: Faulted) -> None:
    os.kill(run.guardian, signal.SIGSTOP)


def stop_guardian_and_kill_supervisor(run: Faulted) -> None:
    run.stop(run.process.pid)  # or it would continue the guardian before we are done
    run.stop(run.guardian)
    kill_supervisor(run)


def kill_guardian_of_a_stopped_supervisor(run: Faulted) -> None:
    run.stop(run.process.pid)
    kill_guardian(run)
    os.kill(run.process.pid, signal.SIGCONT)


FATAL = (kill_supervisor, stop_guardian_and_kill_supervisor)
PASSING = (hold_supervisor, kill_guardian, stop_guardian, kill_guardian_of_a_stopped_supervisor)


def hit(place: Path, phase: str, fault: Callable[[Faulted], None]) -> Faulted:
    """Run the job that hangs once, do the fault when the run has come to the phase, and wait for everybody's end."""
    run = Faulted(place / fault.__name__)
    try:
        run.await_line(b"ready\n")
        run.await_phase(phase)
        fault(run)
        run.end()
    finally:
        run.close()
    return run


@pytest.mark.parametrize("phase", PHASES)
def test_whoever_is_killed_or_stopped_in_this_phase_nobody_is_left_and_the_run_comes_to_its_end(phase: str, tmp_path: Path) -> None:
    with ThreadPoolExecutor(len(FATAL + PASSING)) as pool:
        runs = dict(zip((*FATAL, *PASSING), pool.map(lambda fault: hit(tmp_path, phase, fault), (*FATAL, *PASSING)), strict=True))
    for fault, run in runs.items():
        # That the end was reached says that nobody is left: every process of the job holds the descriptor that was read to its end.
        if fault in FATAL:
            assert run.process.returncode == -signal.SIGKILL, fault.__name__
        else:
            assert run.process.returncode == 4, (fault.__name__, run.said)
            attempts = run.watched.summary()["attempts"]
            assert [attempt["exit_code"] for attempt in attempts] == [137, 4], fault.__name__
            assert [attempt["reason"] for attempt in attempts] == ["hang", None], fault.__name__
        events = list(read_events(str(run.directory / "events.jsonl")))
        assert events[0]["event"] == "run.started"
        json.loads((run.directory / "run.json").read_bytes())


def test_a_lost_and_a_stopped_guardian_are_said(tmp_path: Path) -> None:
    steps = "import time\nprint('ready', flush=True)\nfor n in range(6000): print(f'step {n}/6000', flush=True); time.sleep(0.1)"
    for fault, phrase in ((stop_guardian, "it was continued"), (kill_guardian, "the guardian process is gone")):
        run = Faulted(tmp_path / fault.__name__, steps)
        try:
            run.await_line(b"ready\n")
            until((run.directory / "samples.jsonl").exists)
            fault(run)
            told = until(lambda run=run: [one for one in run.events("sensor.degraded") if one["sensor"] == "guardian"], seconds=30)
            assert phrase in str(told[0]["why"])
            run.process.terminate()
            assert run.end() == -signal.SIGTERM
        finally:
            run.close()


def test_a_guardian_that_is_stopped_does_not_hide_the_end_of_the_command(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    run = Faulted(tmp_path, "import os, sys\nprint('ready', flush=True)\nos.read(os.open('go', 0), 1)\nsys.exit(7)")

    try:
        run.await_line(b"ready\n")
        run.stop(run.guardian)
        (tmp_path / "go").write_bytes(b"!")
        assert run.end() == 7
    finally:
        run.close()


def test_a_healthy_job_is_not_taken_for_hung_after_its_supervisor_stood_still(tmp_path: Path) -> None:
    steps = """
    import time
    print("ready", flush=True)
    for step in range(45):
        with open("steps", "a") as file:
            file.write("x")
        print(f"step {step}/45", flush=True)
        time.sleep(0.1)
    """
    run = Faulted(tmp_path, steps)
    try:
        run.await_line(b"ready\n")
        until((run.directory / "samples.jsonl").exists)
        run.stop(run.process.pid)
        # More than the stall timeout of 2 s in steps of the job: it goes on printing into its pipe meanwhile.
        seen = (tmp_path / "steps").stat().st_size
        until(lambda: (tmp_path / "steps").stat().st_size >= seen + 25, seconds=30)
        os.kill(run.process.pid, signal.SIGCONT)
        assert run.end() == 0
    finally:
        run.close()
    assert not run.events("hang.detected")
    assert len(run.watched.summary()["attempts"]) == 1
