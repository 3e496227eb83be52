"""The proof in the real program: hangs that cannot end are told long before the stall timeout, and healthy waits are left alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from unsloth_watch.judge.memory import Memory
from unsloth_watch.judge.rules import Rules
from unsloth_watch.judge.verdict import judge
from unsloth_watch.tell.samples import read_samples
from waiting import until
from watched import PROGRAM, Watched

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent.parent
ZOO = TESTS / "zoo"
BENCH = TESTS.parent / "scripts" / "bench" / "detection.py"
NEVER = ("--stall-timeout", "10m", "--on-hang", "stop", "--grace", "2s", "--no-live-repair")
"""Options under which nothing but a proof ends the job within the test's own timeout."""
PROVABLE = ("abba", "queue_dead_thread", "pipe_stderr", "fork_lock", "pool_worker_killed", "noise_alive")


def watch(watched: Watched, name: str) -> dict[str, Any]:
    """Run a program of the zoo to its verdict, and return the event."""
    status, out, err = watched.run(
        sys.executable, str(ZOO / f"{name}.py"), options=NEVER, env=watched.environment(ZOO_DIR=str(watched.place), ZOO_LIMIT="100")
    )
    assert status == 124, (out, err)
    (hang,) = watched.events("hang.detected")
    return hang


@pytest.mark.parametrize("name", PROVABLE)
def test_a_hang_that_cannot_end_is_proven_whatever_the_stall_timeout(watched: Watched, name: str) -> None:
    hang = watch(watched, f"hang_{name}")
    assert hang["proven"] is True
    assert "nobody else can wake them" in hang["proof"][-1]


def test_a_stopped_child_of_a_batch_job_is_proven(watched: Watched) -> None:
    # Continuing it would mend it: then it was proven first all the same.
    hang = watch(watched, "hang_stop_child")
    assert hang["proven"] is True
    assert hang["cause"] == "process-stopped"


def test_a_question_whose_answer_only_the_job_itself_could_give_is_proven(watched: Watched) -> None:
    script = watched.script(
        """
        import os, subprocess, sys
        reader, writer = os.pipe()
        child = subprocess.Popen([sys.executable, "-S", "-c", "input('Overwrite? [y/N] ')"], stdin=reader)
        os.close(reader)
        child.wait()
        """
    )
    status, _, err = watched.run(sys.executable, script, options=NEVER)
    assert status == 124, err
    (hang,) = watched.events("hang.detected")
    assert hang["proven"] is True


def test_a_question_to_somebody_outside_is_not_proven_while_he_may_answer(watched: Watched) -> None:
    script = watched.script("print('answer', input('Overwrite? [y/N] '), flush=True)")
    with watched.start(sys.executable, script, options=("-v", *NEVER), stdin=subprocess.PIPE) as process:
        try:
            until(lambda: sum(1 for one in surveys(watched)) >= 3, 60)
            assert process.poll() is None
            out, err = process.communicate(b"y\n", timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0, err
    assert b"answer y" in out
    assert watched.events("hang.detected") == []


def surveys(watched: Watched) -> list[Any]:
    path = watched.directory / "samples.jsonl"
    return [survey for sample in read_samples(str(path)) for survey in sample.surveys] if path.exists() else []


def test_the_report_says_how_it_was_proven_and_a_replay_proves_it_again(watched: Watched) -> None:
    watch(watched, "hang_abba")
    incident = watched.directory / "incidents" / "01"
    report = json.loads((incident / "report.json").read_text())
    assert report["verdict"]["proven"] is True
    steps = report["verdict"]["proof"]
    assert any("/proc/" in step and "hang_abba.py" in step for step in steps)
    for name in ("report.md", "report.html"):
        assert "How it was proven" in (incident / name).read_text()
    memory, proofs = Memory(), []
    for sample in read_samples(str(watched.directory / "samples.jsonl")):
        memory, verdict = judge(memory, sample, Rules(stall_s=3600.0))
        proofs.append(list(verdict.proof))
    assert steps in proofs


def test_inspect_proves_a_hang_within_its_three_seconds(watched: Watched) -> None:
    command = [sys.executable, str(ZOO / "hang_abba.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=watched.environment()) as job:
        try:
            assert job.stdout is not None
            until(lambda: b"ZOO HANG" in (job.stdout.readline() if job.stdout else b""), 30)
            seen = subprocess.run([*PROGRAM, "inspect", str(job.pid), "--json"], capture_output=True, check=False, timeout=60)
        finally:
            job.kill()
    found = json.loads(seen.stdout)
    assert (seen.returncode, found["answer"]) == (1, "hung")
    assert found["verdict"]["is_proven"] is True
    assert found["why"].startswith("proven: ")


def test_healthy_waits_outlive_many_surveys(tmp_path: Path) -> None:
    names = ("outside_semaphore", "outside_pipe", "outside_signal", "clock_posix_timer", "clock_sigchld", "clock_killer")
    only = [word for name in names for word in ("--only", f"healthy_{name}")]
    report = tmp_path / "report.json"
    command = [sys.executable, str(BENCH), "--stall", "16s", "--json", str(report), *only]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(report.read_text())["results"]
    assert {one["name"]: one["verdict"] for one in results} == {f"healthy_{name}": "ok" for name in names}
