"""Old runs are deleted where somebody asks for it; those that live, the newest, and what was moved aside stay."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from unsloth_watch.act.quarantine import quarantine
from unsloth_watch.supervise.oldruns import choose
from unsloth_watch.tell.records import SCHEMA, IncidentRecord, RunRecord
from unsloth_watch.tell.runs import KnownRun
from waiting import until
from watched import PROGRAM, Watched

ALL = ("--prune", "--older-than", "1ms", "--keep", "0")


def verb(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, "runs", *words], env=Watched(place).environment(), cwd=place, capture_output=True, text=True, check=False
    )


def make_run(place: Path, name: str) -> Path:
    """Run something to its end; return the run's directory."""
    base = place / "state/unsloth-watch/runs"
    subprocess.run([*PROGRAM, "--name", name, "true"], env=Watched(place).environment(), cwd=place, capture_output=True, check=True)
    return next(run for run in base.iterdir() if f"-{name}-" in run.name)


def prune(place: Path, *words: str) -> dict[str, str]:
    """Return what became of each old run, by its name."""
    done = verb(place, *ALL, *words, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["schema"] == "unsloth-watch/runs-prune/1"
    return {run["id"].split("-")[1]: run["action"] for run in answer["runs"]}


def test_what_is_old_goes_and_the_newest_and_strangers_stay(tmp_path: Path) -> None:
    older, newer = make_run(tmp_path, "older"), make_run(tmp_path, "newer")
    stranger = older.parent / "of-somebody"
    stranger.mkdir()
    (stranger / "run.json").write_text((older / "run.json").read_text())
    assert prune(tmp_path, "--dry-run") == {"older": "would delete", "newer": "would delete"}
    assert older.exists()
    done = verb(tmp_path, "--prune", "--older-than", "1ms", "--keep", "1")
    assert f"{older.name}  deleted" in done.stdout
    assert "1 run deleted" in done.stdout
    assert (older.exists(), newer.exists(), stranger.exists()) == (False, True, True)
    assert "0 runs deleted" in verb(tmp_path, "--prune").stdout, "nothing is thirty days old"
    left = older.parent / ".pruned-earlier"
    left.mkdir()
    assert prune(tmp_path) == {"newer": "deleted"}
    assert os.listdir(older.parent) == [stranger.name]


def test_a_run_that_lives_or_may_is_left_alone_however_old_its_records_look(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    base = tmp_path / "state/unsloth-watch/runs"
    words = [*PROGRAM, "--name", "live", "--", sys.executable, "-c", "print('ready', flush=True); input()"]
    with subprocess.Popen(
        words, env=watched.environment(), cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            (run,) = base.iterdir()
            age(run)
            assert prune(tmp_path) == {"live": "kept"}
            job = json.loads((run / "run.json").read_text())["attempts"][0]["pid"]
        finally:
            process.kill()
    until(lambda: not Path(f"/proc/{job}").exists())
    for path in run.iterdir():
        os.utime(path)
    assert prune(tmp_path) == {"live": "kept"}, "killed within the last hour"
    age(run)
    assert prune(tmp_path) == {"live": "deleted"}


def age(run: Path) -> None:
    for path in run.iterdir():
        os.utime(path, (1.0, 1.0), follow_symlinks=False)


def test_what_a_run_moved_aside_is_not_deleted_with_it(tmp_path: Path) -> None:
    run = make_run(tmp_path, "mended")
    (tmp_path / "obstacle").write_text("somebody's")
    quarantine(str(tmp_path / "obstacle"), str(run / "quarantine"))
    assert prune(tmp_path) == {"mended": "kept"}
    assert "cache list" in verb(tmp_path, *ALL).stdout
    assert list(run.glob("quarantine/*obstacle*"))


@pytest.mark.parametrize("words", [("--dry-run",), ("--keep", "3"), ("--older-than", "1d"), ("--prune", "--keep", "-1")])
def test_what_only_pruning_knows_is_refused_without_it(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = verb(tmp_path, *words)
    assert done.returncode == 64
    assert done.stderr.count("\n") == 1


@pytest.mark.quick
def test_the_newest_runs_and_the_newest_with_an_incident_stay() -> None:
    incident = IncidentRecord(1, "unknown", False, 1.0, "", "incidents/01")
    runs = [
        KnownRun(f"/{number}", RunRecord(SCHEMA, str(number), (), "/", "", incidents=(incident,) if number % 3 == 0 else ()))
        for number in range(12)
    ]
    ages = {run.record.id: 5.0 for run in runs} | {"11": 1.0}
    assert [run.record.id for run in choose(runs, ages, 2.0, 2)] == ["2", "4", "5", "6", "7", "8", "9", "10"]
