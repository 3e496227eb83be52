from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from unsloth_watch.act.change import MendError
from unsloth_watch.act.mend import Applied, apply, prepend
from unsloth_watch.act.move import move
from unsloth_watch.act.quarantine import quarantine, read_manifest, restore
from unsloth_watch.model.diagnosis import Remedy

pytestmark = pytest.mark.quick


def mend(place: Path, remedy: Remedy, environment: dict[str, str] | None = None, *, is_alive: bool = False) -> Applied:
    return apply(remedy, environment or {}, str(place / "private"), str(place / "quarantine"), lambda: is_alive)


def test_an_import_path_is_put_in_front_of_what_is_there(tmp_path: Path):
    remedy = Remedy("import-path", "why", "environment", prepend_path={"PYTHONPATH": "/job"})
    applied = mend(tmp_path, remedy, {"PYTHONPATH": "/mine:/job", "HOME": "/h"})
    assert applied.environment == {"PYTHONPATH": "/job:/mine", "HOME": "/h"}
    (change,) = applied.changes
    assert (change.target, change.kind, change.before, change.after) == ("PYTHONPATH", "environment", "/mine:/job", "/job:/mine")
    assert change.undo == "export PYTHONPATH='/mine:/job'"


def test_what_undoes_a_change_can_be_typed_whatever_the_names_hold(tmp_path: Path):
    place = tmp_path / "my models; rm"
    remedy = Remedy("r", "why", "environment", environment={"NAME": "new"}, make_directories=(str(place / "a b"),))
    made, changed = mend(tmp_path, remedy, {"NAME": "it's mine"}).changes
    assert subprocess.run(["sh", "-c", made.undo], check=True, cwd=tmp_path).returncode == 0
    assert list(tmp_path.iterdir()) == []
    shown = subprocess.run(["sh", "-c", f'{changed.undo}; printf %s "$NAME"'], check=True, capture_output=True, text=True)
    assert shown.stdout == "it's mine"
    place.mkdir()
    moved = quarantine(str(place), str(tmp_path / "quarantine"))
    subprocess.run(["sh", "-c", moved.undo], check=True)
    assert place.is_dir()


@pytest.mark.parametrize(("value", "expected"), [(None, "/a"), ("", "/a"), ("/b", "/a:/b"), ("/b:", "/a:/b:"), ("/a", "/a")])
def test_a_path_list_never_gains_an_empty_entry(value: str | None, expected: str):
    assert prepend("/a", value) == expected


def test_a_variable_is_taken_away_and_an_absent_one_is_no_change(tmp_path: Path):
    remedy = Remedy("default-lock-timeout", "why", "environment", environment={"UNSLOTH_LOCK_TIMEOUT": None, "ABSENT": None})
    applied = mend(tmp_path, remedy, {"UNSLOTH_LOCK_TIMEOUT": "-1"})
    assert applied.environment == {}
    assert [change.target for change in applied.changes] == ["UNSLOTH_LOCK_TIMEOUT"]


def test_a_private_directory_is_made_for_its_owner_alone(tmp_path: Path):
    remedy = Remedy(
        "r", "why", "environment", environment={"X": "{private}/deep/cache"}, make_directories=("{private}/deep/cache",)
    )
    applied = mend(tmp_path, remedy)
    place = tmp_path / "private" / "deep" / "cache"
    assert applied.environment == {"X": str(place)}
    assert {path.stat().st_mode & 0o777 for path in (place, place.parent, place.parent.parent)} == {0o700}


def test_a_variable_is_not_pointed_to_a_directory_that_could_not_be_made(tmp_path: Path):
    (tmp_path / "private").write_text("in the way")
    remedy = Remedy("r", "why", "environment", environment={"X": "{private}/cache"}, make_directories=("{private}/cache",))
    applied = mend(tmp_path, remedy)
    assert applied.environment == {}
    assert len(applied.refused) == 2


def test_what_is_in_the_way_is_moved_aside_and_comes_back(tmp_path: Path):
    cache = tmp_path / "cache"
    cache.write_text("somebody's")
    applied = mend(tmp_path, Remedy("q", "why", "filesystem", quarantine=(str(cache),), make_directories=(str(cache),)))
    assert applied.refused == ()
    assert cache.is_dir()
    assert [change.kind for change in applied.changes] == ["quarantine", "directory"]
    cache.rmdir()
    assert restore(str(tmp_path / "quarantine")) == (str(cache),)
    assert cache.read_text() == "somebody's"
    assert read_manifest(str(tmp_path / "quarantine")) == ()


def test_nothing_is_moved_while_a_process_of_the_job_lives(tmp_path: Path):
    lock = tmp_path / "lock"
    lock.touch()
    applied = mend(tmp_path, Remedy("q", "why", "filesystem", quarantine=(str(lock),)), is_alive=True)
    assert lock.exists()
    assert applied.changes == ()
    assert "still lives" in applied.refused[0]


def test_restoring_never_overwrites_what_is_there_now(tmp_path: Path):
    cache = tmp_path / "cache"
    cache.write_text("old")
    quarantine(str(cache), str(tmp_path / "q"))
    cache.write_text("new")
    assert restore(str(tmp_path / "q")) == ()
    assert cache.read_text() == "new"
    cache.unlink()
    assert restore(str(tmp_path / "q")) == (str(cache),)
    assert cache.read_text() == "old"


def test_a_link_is_moved_itself_and_what_it_leads_to_stays(tmp_path: Path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (tmp_path / "cache").symlink_to(tmp_path / "precious")
    change = quarantine(str(tmp_path / "cache"), str(tmp_path / "q"))
    assert change.after is not None
    assert Path(change.after).is_symlink()
    assert (tmp_path / "precious" / "file").exists()


@pytest.mark.parametrize("path", ["/", "relative", "~", "/tmp/..", "home", "cwd", "job"])
def test_dangerous_places_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str):
    home, job = tmp_path / "home", tmp_path / "outer" / "job"
    home.mkdir()
    job.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    real = {"home": str(home), "cwd": os.getcwd(), "job": str(job.parent)}.get(path, path)
    with pytest.raises(MendError):
        quarantine(real, str(tmp_path / "q"), keep=(str(job),))
    assert job.is_dir()
    assert home.is_dir()


def test_a_quarantine_cannot_swallow_itself(tmp_path: Path):
    (tmp_path / "run").mkdir()
    with pytest.raises(MendError):
        quarantine(str(tmp_path / "run"), str(tmp_path / "run" / "quarantine"))


HOLD = """
import fcntl, sys
file = open(sys.argv[1], "w")
getattr(fcntl, sys.argv[2])(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("call", ["flock", "lockf"])
def test_a_lock_that_somebody_holds_is_never_moved(tmp_path: Path, call: str):
    cache = tmp_path / "cache" / ".locks"
    cache.mkdir(parents=True)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(cache / "lock"), call], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    try:
        holder.stdout.readline()
        with pytest.raises(MendError, match="holds the lock"):
            quarantine(str(tmp_path / "cache"), str(tmp_path / "q"))
        assert (cache / "lock").exists()
    finally:
        holder.communicate()
    quarantine(str(tmp_path / "cache"), str(tmp_path / "q"))
    assert not (tmp_path / "cache").exists()


def test_asking_for_a_lock_gives_it_back(tmp_path: Path):
    lock = tmp_path / "lock"
    lock.touch()
    change = quarantine(str(lock), str(tmp_path / "q"))
    assert change.after is not None
    with open(change.after) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A place on another file system than the test's directory."""
    if not os.access("/dev/shm", os.W_OK) or os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("needs a second file system to move to: a writable /dev/shm")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


def test_a_directory_is_moved_across_file_systems_with_everything_in_it(tmp_path: Path, elsewhere: Path):
    source, target = tmp_path / "cache", elsewhere / "cache"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "file").write_text("kept")
    (source / "link").symlink_to("deep/file")
    move(str(source), str(target))
    assert (target / "deep" / "file").read_text() == "kept"
    assert (target / "link").is_symlink()
    assert list(tmp_path.iterdir()) == []
    move(str(target), str(source))
    assert (source / "deep" / "file").read_text() == "kept"
    assert list(elsewhere.iterdir()) == []


def test_what_cannot_be_copied_across_file_systems_stays_whole(tmp_path: Path, elsewhere: Path):
    source = tmp_path / "cache"
    source.mkdir()
    (source / "file").write_text("kept")
    os.mkfifo(source / "pipe")
    with pytest.raises(OSError, match="named pipe"):
        move(str(source), str(elsewhere / "cache"))
    assert (source / "file").read_text() == "kept"
    assert list(tmp_path.iterdir()) == [source]
    assert list(elsewhere.iterdir()) == []


def test_a_manifest_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path: Path):
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(MendError, match="by hand"):
        read_manifest(str(tmp_path))


def test_a_file_that_another_job_has_taken_meanwhile_stays(tmp_path: Path):
    """Two supervisors on one cache: the first has moved the lock aside, and its job builds again."""
    lock = tmp_path / "lock"
    with lock.open("w"):
        applied = mend(tmp_path, Remedy("q", "why", "filesystem", quarantine=(str(lock),)))
        assert applied.changes == ()
        assert f"PID {os.getpid()} has it open" in applied.refused[0]
    assert lock.exists()


def test_the_users_own_setting_stays_unless_it_is_part_of_the_cause(tmp_path: Path):
    user = {"WANDB_MODE": "online", "TMPDIR": "/mine", "PYTHONPATH": "/mine", "UNSLOTH_LOCK_TIMEOUT": "-1"}
    remedy = Remedy(
        "r",
        "why",
        "environment",
        environment={"WANDB_MODE": "offline", "TMPDIR": "/new", "UNSLOTH_LOCK_TIMEOUT": None, "NEW": "1"},
        prepend_path={"PYTHONPATH": "/job"},
        overrides=("TMPDIR",),
    )
    applied = apply(remedy, user, str(tmp_path / "p"), str(tmp_path / "q"), lambda: False, user=user)
    assert applied.environment == {"WANDB_MODE": "online", "TMPDIR": "/new", "PYTHONPATH": "/job:/mine", "NEW": "1"}
    assert applied.refused == ("WANDB_MODE=online stays: you set it, and nothing shows that it is the cause",)
    # What an earlier remedy set is not the user's.
    later = apply(remedy, {"WANDB_MODE": "disabled"}, str(tmp_path / "p"), str(tmp_path / "q"), lambda: False, user=user)
    assert later.environment["WANDB_MODE"] == "offline"


def test_an_empty_standard_input_is_given_unless_the_user_chose_one(tmp_path: Path):
    remedy = Remedy("stdin-null", "why", "environment", stdin="null")
    assert [change.kind for change in mend(tmp_path, remedy).changes] == ["stdin"]
    kept = apply(remedy, {}, str(tmp_path / "p"), str(tmp_path / "q"), lambda: False, is_input_free=False)
    assert kept.changes == ()
    assert "--stdin" in kept.refused[0]
