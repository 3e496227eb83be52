"""The bench that runs the zoo: what it counts as named, and that it tells the hung from the living."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "scripts" / "bench" / "detection.py"


def run_bench(place: Path, *words: str) -> tuple[subprocess.CompletedProcess[str], dict]:
    report = place / "report.json"
    done = subprocess.run(
        [sys.executable, BENCH, "--json", report, *words], capture_output=True, text=True, timeout=110, check=False
    )
    return done, json.loads(report.read_text()) if report.exists() else {}


@pytest.mark.slow
def test_a_hang_is_found_after_it_began_and_a_healthy_job_is_left_alone(tmp_path: Path):
    done, report = run_bench(tmp_path, "--stall", "4s", "--only", "hang_stop_main", "--only", "healthy_backoff")
    assert done.returncode == 0, done.stderr
    hung, healthy = report["results"]
    assert (hung["name"], hung["verdict"], hung["status"]) == ("hang_stop_main", "found", 124)
    assert hung["latency_s"] > 0
    assert (healthy["name"], healthy["verdict"], healthy["status"]) == ("healthy_backoff", "ok", 0)
    assert hung["is_cause_right"] is (hung["cause"] == "process-stopped")
    assert isinstance(hung["is_culprit_right"], bool)
    assert not hung["left_over"]
    assert report["totals"]["hangs found"] == "1 of 1"


@pytest.mark.slow
def test_a_program_alone_hangs_in_the_first_attempt_and_ends_well_in_the_second(tmp_path: Path):
    done, report = run_bench(tmp_path, "--unsupervised", "--stall", "4s", "--only", "hang_abba")
    assert done.returncode == 0, done.stderr
    (hung,) = report["results"]
    assert (hung["verdict"], hung["status"]) == ("ok", 0)
    assert "futex" in hung["note"]


def test_a_name_that_no_program_has_is_an_error(tmp_path: Path):
    done, report = run_bench(tmp_path, "--only", "hang_nothing")
    assert done.returncode == 2
    assert "no program is called hang_nothing" in done.stderr
    assert not report


def test_an_option_that_the_supervisor_refuses_ends_the_bench_before_the_first_program(tmp_path: Path):
    done, report = run_bench(tmp_path, "--only", "hang_abba", "--option=--no-such-option")
    assert done.returncode == 1
    assert "does not run" in done.stderr
    assert not report


@pytest.mark.quick
def test_a_culprit_counts_as_named_only_as_a_word_of_its_own():
    cases = [
        ("read", "Thread._wait (threading.py:1)", False),
        ("save", "save (train.py:3)", True),
        ("save", "wait_for_save (train.py:3)", False),
        ("pipe", "write to Pipes", True),
        ("SIGSTOP", "PID 7 was stopped by sigstop", True),
    ]
    # In a process of its own: the bench puts directories in front of the path.
    script = "import json, sys, detection; print([detection.is_named(*one[:2]) for one in json.load(sys.stdin)])"
    done = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(cases), capture_output=True, text=True, cwd=BENCH.parent, check=True
    )
    assert done.stdout.strip() == str([right for _, _, right in cases])
