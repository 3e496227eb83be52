"""The main job on real faults of the compile cache: ``unsloth-watch -- python scripts/train.py``."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from environments import interpreter_of
from founding.faults import CACHE, FAULTS, command_of, lay_out, restore_permissions
from watched import Watched

pytestmark = pytest.mark.unsloth

# Short, so that a hang costs the test seconds; the import takes 3 to 15 s and is progress all the while.
OPTIONS = ("--stall-timeout", "5s", "--grace", "3s")


def supervise(watched: Watched, name: str, python: Path, *extra: str, **more: str) -> tuple[int, str]:
    """Lay a fault out in the watched place and run the example there; return status and output."""
    lay_out(watched.place)
    FAULTS[name].prepare(watched.place)
    command, environment = command_of(FAULTS[name], python, watched.place)
    # A folder of its own for the records, since some faults make the job's folder unwritable.
    try:
        status, out, err = watched.run(*command, options=(*OPTIONS, *extra), env={**environment, **more})
    finally:
        restore_permissions(watched.place)
    return status, (out + err).decode("utf-8", "replace")


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    place = tmp_path / "job"
    place.mkdir()
    watched = Watched(place)
    watched.directory = tmp_path / "run"
    return watched


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("cwd-not-importable", "import-path"), ("made-beforehand", "import-path"), ("shadowed", "quarantine-shadow")],
)
def test_a_fault_that_hangs_the_founding_version_is_explained_mended_and_the_training_ends(
    watched: Watched, name: str, remedy: str
):
    status, output = supervise(watched, name, interpreter_of("founding"))
    assert status == 0, output
    assert "training done" in output
    (hang,) = watched.events("hang.detected")
    assert hang["cause"] == "compile-cache-unusable"
    assert "2025.3.1" in hang["summary"]
    assert {event["remedy"] for event in watched.events("remedy.applied")} == {remedy}
    summary = watched.summary()
    assert (summary["outcome"], len(summary["attempts"]), len(summary["incidents"])) == ("completed", 2, 1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("file-in-its-place", "NotADirectoryError"),
        ("read-only-directory", "PermissionError"),
        ("read-only-with-module", "PermissionError"),
        ("read-only-cwd", "PermissionError"),
        ("disk-full", "No space left on device"),
    ],
)
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="some of these faults need root to be made (mount, dropping capabilities)")
def test_a_fault_that_crashes_the_founding_version_stays_its_own_failure(watched: Watched, name: str, words: str):
    status, output = supervise(watched, name, interpreter_of("founding"))
    assert status == 1, output
    assert words in output
    assert watched.events("hang.detected") == []


@pytest.mark.parametrize("name", ["healthy", "read-only-home"])
def test_a_founding_job_without_that_fault_is_left_alone(watched: Watched, name: str):
    status, output = supervise(watched, name, interpreter_of("founding"))
    assert status == 0, output
    assert watched.events("hang.detected") == []
    assert len(watched.summary()["attempts"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cwd-not-importable", "file-in-its-place", "read-only-cwd"])
def test_todays_library_falls_back_by_itself_and_is_left_alone(watched: Watched, name: str):
    status, output = supervise(watched, name, interpreter_of("modern"))
    assert status == 0, output
    assert watched.events("hang.detected") == []


@pytest.mark.slow
def test_todays_library_behind_a_strangers_lock_is_mended_and_the_stranger_lives(watched: Watched, holder: subprocess.Popen[bytes]):
    python = interpreter_of("modern")
    status, output = supervise(watched, "cwd-not-importable", python, "--cache", "keep", UNSLOTH_LOCK_TIMEOUT="-1")
    assert status == 0, output
    (hang,) = watched.events("hang.detected")
    assert hang["cause"] == "lock-held-elsewhere"
    assert hang["culprit"]["pid"] == holder.pid
    assert hang["culprit"]["path"].endswith(f"{CACHE}/.locks/.lock.scaled_mse.py")
    assert {event["remedy"] for event in watched.events("remedy.applied")} == {"redirect-compile-cache"}
    assert holder.poll() is None


@pytest.mark.slow
def test_a_place_of_its_own_never_meets_the_strangers_lock(watched: Watched, holder: subprocess.Popen[bytes]):
    status, output = supervise(watched, "cwd-not-importable", interpreter_of("modern"), UNSLOTH_LOCK_TIMEOUT="-1")
    assert status == 0, output
    assert watched.events("hang.detected") == []
    assert holder.poll() is None


@pytest.mark.slow
def test_a_tiny_fine_tune_with_checkpoints_is_never_taken_for_a_hang(watched: Watched):
    python = interpreter_of("modern")
    script = Path(__file__).with_name("tiny_finetune.py")
    status, out, err = watched.run(str(python), str(script), "out", options=OPTIONS)
    assert status == 0, err.decode()
    assert b"fine-tune done" in out
    assert watched.events("hang.detected") == []
    assert sorted(path.name for path in (watched.place / "out").iterdir() if path.is_dir()) == ["checkpoint-10", "checkpoint-20"]
