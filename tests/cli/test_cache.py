"""``cache list|prune|repair`` on real directories and real processes: nothing that anybody may need is ever lost."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from unsloth_watch.act.change import MendError
from unsloth_watch.act.discard import Discard, check_top
from unsloth_watch.act.isolation import MARKER
from unsloth_watch.capture.hubcache import list_hub_entries
from watched import PROGRAM, Watched

DAY = 86400.0
KEY = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567ABCDEFGHIJKLMNOPQRST"
OTHER = KEY[::-1]
OLD, NEW = "a" * 40, "b" * 40


LATER = (
    "import sys, time; from unsloth_watch.supervise import clock; from unsloth_watch.cli import cache, main; "
    f"clock.wall = lambda: time.time() + {100 * DAY}; sys.exit(main.main(['cache', *sys.argv[1:]]))"
)
"""The verb, 100 days from now: no file can be made old, because nobody can set its ``ctime``."""
COMMAND = [sys.executable, "-c", LATER]
SHELL = shlex.join(COMMAND)


class Shelf:
    """A user with a home, in which caches lie."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.home = place / "home"
        self.work = place / "work"
        self.home.mkdir()
        self.work.mkdir()
        self.cache = self.home / ".cache"
        self.triton = self.home / ".triton" / "cache"
        self.hub = self.cache / "huggingface" / "hub"
        self.environment = {
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
            "TMPDIR": str(place / "temp"),
            "USER": "ann",
            "LOGNAME": "ann",
        }

    def run(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *words],
            cwd=self.work,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def prune(self, *words: str, **more: str) -> dict[str, dict[str, Any]]:
        """Prune what is older than 30 days and return what became of each path."""
        result = self.run("prune", "--older-than", "30d", "--json", *words, **more)
        assert result.stderr == ""
        return {entry["path"]: entry for entry in json.loads(result.stdout)["pruned"]["entries"]}

    def kernel(self, key: str = KEY, *, days: float = 40, size: int = 8192) -> Path:
        """Put an entry into Triton's cache."""
        entry = self.triton / key
        entry.mkdir(parents=True)
        (entry / "kernel.cubin").write_bytes(bytes(size))
        age(entry, days)
        return entry


def age(path: Path, days: float) -> None:
    """Say that a tree was last used so many days before `COMMAND` runs."""
    then = time.time() + (100 - days) * DAY
    for one in (path, *path.rglob("*")):
        os.utime(one, (then, then), follow_symlinks=False)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


@contextmanager
def running(program: str, *arguments: str, **keywords: Any) -> Iterator[int]:
    """A Python program that has said that it is ready."""
    command = [sys.executable, "-c", f"{program}\nprint('ready', flush=True)\nimport sys; sys.stdin.read()", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **keywords) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield process.pid
        finally:
            process.communicate()


def test_old_entries_go_and_young_ones_and_everything_unknown_stay(shelf: Shelf):
    old, young = shelf.kernel(), shelf.kernel(OTHER, days=2)
    foreign = shelf.triton / "my-notes"
    foreign.mkdir()
    (foreign / "precious").touch()
    age(foreign, 400)
    (found,) = shelf.prune().values()
    assert (found["path"], found["action"], found["why"]) == (str(old), "deleted", "not used for 40 d")
    assert not old.exists()
    assert young.exists()
    assert (foreign / "precious").exists()


def test_what_was_unpacked_lately_with_its_old_times_is_not_old(shelf: Shelf):
    packed = shelf.kernel(days=400)
    status = (packed / "kernel.cubin").stat()
    assert max(status.st_atime, status.st_mtime) < status.st_ctime - 200 * DAY  # as after tar, or on a mount without access times
    command = [*PROGRAM, "cache", "prune", "--older-than", "30d", "--json"]
    done = subprocess.run(command, cwd=shelf.work, env=shelf.environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["pruned"]["entries"] == []
    assert shelf.prune()[str(packed)]["action"] == "deleted"  # nobody touched it for 100 days


def test_in_a_directory_that_inductor_shares_with_its_user_only_inductors_shards_are_pruned(shelf: Shelf):
    place = shelf.work / "everything"
    code = "cen" + "abcdefghij234567" * 3 + "z"
    shards = {
        "en": [f"{code}.py", ".17.140.tmp", "f" * 64 + ".best_config"],
        "de": ["texts.txt"],
        "fr": [],
        "es": ["ces" + code[3:] + ".py", "a.txt"],
    }
    for name, files in shards.items():
        (place / name).mkdir(parents=True)
        for file in files:
            (place / name / file).write_text("kept")
    age(place, 40)
    found = shelf.prune(TORCHINDUCTOR_CACHE_DIR=str(place))
    assert {path: entry["action"] for path, entry in found.items()} == {str(place / "en"): "deleted"}
    assert sorted(path.name for path in place.rglob("*.txt")) == ["a.txt", "texts.txt"]


def test_a_dry_run_says_the_same_and_deletes_nothing(shelf: Shelf):
    old = shelf.kernel()
    result = shelf.run("prune", "--older-than", "30d", "--dry-run")
    assert f"would delete: triton {KEY} (8 KiB)" in result.stdout
    assert old.exists()


def test_the_least_recently_used_go_until_the_rest_fits(shelf: Shelf):
    keys = [letter * 52 for letter in "ABCD"]
    for days, key in enumerate(keys, 1):
        shelf.kernel(key, days=days, size=100_000)
    result = shelf.run("prune", "--max-size", "210K")
    assert result.returncode == 0
    assert sorted(path.name for path in shelf.triton.iterdir()) == keys[:2]


def test_without_a_rule_nothing_is_pruned(shelf: Shelf):
    shelf.kernel()
    result = shelf.run("prune")
    assert (result.returncode, result.stderr.count("\n")) == (64, 1)
    assert (shelf.triton / KEY).exists()


USES = {
    "an open file": "file = open(sys.argv[1] + '/kernel.cubin')",
    "a mapped file": "import mmap; f = open(sys.argv[1] + '/kernel.cubin'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); f.close()",
    "its directory": "import os; os.chdir(sys.argv[1])",
    "a lock": "import fcntl; f = open(sys.argv[1] + '/kernel.cubin'); fcntl.flock(f, fcntl.LOCK_SH)",
}


@pytest.mark.parametrize("use", USES)
def test_an_entry_that_a_process_has_in_its_hands_stays_and_goes_afterwards(shelf: Shelf, use: str):
    entry = shelf.kernel()
    with running("import sys\n" + USES[use], str(entry)) as pid:
        age(entry, 40)  # to map a file is to use it
        found = shelf.prune()[str(entry)]
        assert (found["action"], found["why"]) == ("kept", f"PID {pid} uses it")
        assert (entry / "kernel.cubin").stat().st_size == 8192
    assert shelf.prune()[str(entry)]["action"] == "deleted"


def test_an_entry_that_a_processs_environment_leads_to_stays(shelf: Shelf):
    entry = shelf.kernel()
    with running("", env={**shelf.environment, "MY_KERNELS": str(entry)}):
        assert shelf.prune()[str(entry)]["action"] == "kept"


def test_a_shared_cache_stays_while_a_process_with_its_library_lives(shelf: Shelf):
    # A library of that name, mapped by a process whose environment leads to this very cache.
    entry, library = shelf.kernel(), shelf.place / "libtriton.so"
    library.write_bytes(bytes(4096))
    program = "import mmap, sys; f = open(sys.argv[1]); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); f.close()"
    with running(program, str(library), env=shelf.environment) as pid:
        found = shelf.prune()[str(entry)]
        assert (found["action"], found["why"]) == ("kept", f"PID {pid} uses it")
    with running(program, str(library), env={**shelf.environment, "TRITON_CACHE_DIR": str(shelf.place / "elsewhere")}):
        # It was started with another place; but a library may have changed its environment since.
        assert shelf.prune()[str(entry)]["action"] == "kept"
    with running(program, str(library), env={**shelf.environment, "HOME": str(shelf.place / "another")}):
        assert shelf.prune()[str(entry)]["action"] == "deleted"


BECOME = "import os; os.setgroups([]); os.setgid(54321); os.setuid(54321)\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be an ordinary user with a process that even this user may not read")
def test_a_process_of_the_owner_that_cannot_be_read_keeps_an_entry():
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # pytest's own directories are closed to other users
        Path(place).chmod(0o755)
        shelf = Shelf(Path(place))
        entry = shelf.kernel()
        for path in (shelf.home, shelf.triton.parent, shelf.triton, entry, entry / "kernel.cubin"):
            os.chown(path, 54321, 54321)
        hide = BECOME + "import ctypes; assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0"  # PR_SET_DUMPABLE
        # Imported before: the interpreter itself may lie where the other user cannot go.
        imports, _, work = LATER.rpartition("sys.exit")
        code = f"import locale; {imports}\n{BECOME}sys.exit{work}"  # gettext imports it late before 3.11
        command = [sys.executable, "-c", code, "prune", "--older-than", "30d", "--json"]

        def prune() -> dict[str, Any]:
            result = subprocess.run(command, cwd=shelf.work, env=shelf.environment, capture_output=True, text=True, check=False)
            (found,) = json.loads(result.stdout)["pruned"]["entries"]
            return found  # type: ignore[no-any-return]

        with running("import ctypes\n" + hide) as pid:
            found = prune()
        assert found["action"] == "kept"
        assert f"PID {pid} may use it and cannot be read" in found["why"]
        assert prune()["action"] == "deleted"


def test_links_are_never_followed_out_of_a_cache(shelf: Shelf):
    precious = shelf.place / "precious"
    precious.mkdir()
    (precious / "file").write_text("kept")
    age(precious, 400)
    inside = shelf.kernel()
    (inside / "out").symlink_to(precious)
    (shelf.triton / OTHER).symlink_to(precious)
    age(inside, 40)
    assert list(shelf.prune()) == [str(inside)]
    assert (precious / "file").read_text() == "kept"
    assert (shelf.triton / OTHER).is_symlink()


def test_a_link_to_a_cache_on_another_disk_is_pruned_there(shelf: Shelf):
    shelf.kernel()
    real = shelf.place / "scratch"
    shelf.triton.rename(real)
    shelf.triton.symlink_to(real)
    assert list(shelf.prune()) == [str(real / KEY)]
    assert shelf.triton.is_symlink()
    assert list(real.iterdir()) == []


@pytest.mark.parametrize("place", ["/", "home", "above", "work"])
def test_a_cache_that_is_home_root_or_the_working_directory_is_left_alone(shelf: Shelf, place: str):
    real = {"/": "/", "home": str(shelf.home), "above": str(shelf.place), "work": str(shelf.work)}[place]
    bait = (shelf.home if place in ("/", "home") else Path(real)) / KEY
    bait.mkdir()
    (bait / "file").write_text("kept")
    age(bait, 400)
    for words in (("prune", "--older-than", "30d"), ("repair", "triton"), ("repair",)):
        result = shelf.run(*words, TRITON_CACHE_DIR=real)
        if real != str(shelf.work) or words != ("repair",):  # there only what is broken is moved
            assert "is left alone" in result.stdout
            assert result.returncode == 1
    assert (bait / "file").read_text() == "kept"


def test_what_a_crash_left_of_a_pruning_is_cleared_away_by_the_next(shelf: Shelf):
    (shelf.triton / ".unsloth-watch-prune-1234-X").mkdir(parents=True)
    (found,) = shelf.prune().values()
    assert (found["action"], found["why"]) == ("deleted", "left over from an earlier pruning")


def test_an_entry_that_turns_out_to_be_in_use_goes_back_unharmed(tmp_path: Path):
    entry = tmp_path / "cache" / "entry"
    entry.mkdir(parents=True)
    (entry / "file").write_text("kept")
    discard = Discard(str(entry), check_top(str(tmp_path / "cache")))
    assert not entry.exists()
    discard.put_back()
    assert (entry / "file").read_text() == "kept"


def test_what_a_living_pruning_has_set_aside_is_no_left_over(tmp_path: Path):
    entry = tmp_path / "cache" / "entry"
    entry.mkdir(parents=True)
    first = Discard(str(entry), check_top(str(tmp_path / "cache")))
    with pytest.raises(MendError, match="another pruning"):
        Discard(first.aside, check_top(str(tmp_path / "cache")))
    first.put_back()
    Discard(str(entry), check_top(str(tmp_path / "cache"))).finish()
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_does_not_lie_in_the_cache_is_never_deleted(tmp_path: Path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache-of-another" / "entry").mkdir(parents=True)
    (tmp_path / "cache" / "link").symlink_to(tmp_path / "cache-of-another")
    top = check_top(str(tmp_path / "cache"))
    for path in ("cache-of-another/entry", "cache/link", "cache/link/entry", "cache/../cache-of-another/entry"):
        with pytest.raises(MendError):
            Discard(str(tmp_path / path), top)
    assert (tmp_path / "cache-of-another" / "entry").is_dir()


class Hub:
    """A hub repository in the real layout."""

    def __init__(self, shelf: Shelf, name: str = "models--org--tiny") -> None:
        self.path = shelf.hub / name
        (self.path / "blobs").mkdir(parents=True)

    def revision(self, revision: str, *, ref: str | None = None, days: float = 40, **files: str) -> Path:
        snapshot = self.path / "snapshots" / revision
        snapshot.mkdir(parents=True)
        for name, blob in files.items():
            if not (self.path / "blobs" / blob).exists():
                (self.path / "blobs" / blob).write_bytes(bytes(5000))
            age(self.path / "blobs" / blob, days)
            (snapshot / name).symlink_to(f"../../blobs/{blob}")
        age(snapshot, days)
        if ref is not None:
            (self.path / "refs").mkdir(exist_ok=True)
            (self.path / "refs" / ref).write_text(revision)
            age(self.path / "refs", days)
        return snapshot


def test_models_are_only_pruned_when_they_are_asked_for_and_then_as_a_whole(shelf: Shelf):
    hub = Hub(shelf)
    hub.revision(OLD, ref="main", config="c1", weights="w1")
    assert shelf.prune() == {}
    assert shelf.prune("--include", "hub")[str(hub.path)]["action"] == "deleted"
    assert list(shelf.hub.iterdir()) == []


def test_a_data_set_that_somebody_saved_among_the_cached_ones_stays(shelf: Shelf):
    cached = shelf.cache / "huggingface" / "datasets" / "org___tiny" / "default" / "0.0.0" / "abc"
    saved = shelf.cache / "huggingface" / "datasets" / "mine" / "train"  # as DatasetDict.save_to_disk writes it
    for place, names in ((cached, ("dataset_info.json",)), (saved, ("dataset_info.json", "state.json"))):
        place.mkdir(parents=True)
        for name in (*names, "data.arrow"):
            (place / name).write_bytes(bytes(4096))
    age(shelf.cache, 40)
    found = shelf.prune("--include", "datasets")
    assert {Path(path).name: entry["action"] for path, entry in found.items()} == {"org___tiny": "deleted"}
    assert (saved / "data.arrow").exists()


def test_an_old_revision_goes_with_its_own_blobs_and_refs_and_leaves_the_shared_ones(shelf: Shelf):
    hub = Hub(shelf)
    old = hub.revision(OLD, ref="old", config="shared", weights="w1")
    new = hub.revision(NEW, ref="main", days=1, config="shared", weights="w2")
    found = shelf.prune("--include", "hub")
    assert list(found) == [str(old)]
    assert found[str(old)]["name"] == f"models/org/tiny @ {OLD[:8]}"
    assert sorted(path.name for path in (hub.path / "blobs").iterdir()) == ["shared", "w2"]
    assert [path.name for path in (hub.path / "refs").iterdir()] == ["main"]
    assert all((new / name).read_bytes() == bytes(5000) for name in ("config", "weights"))


def test_a_revision_whose_blob_somebody_reads_stays_whole(shelf: Shelf):
    hub = Hub(shelf)
    old = hub.revision(OLD, config="shared", weights="w1")
    hub.revision(NEW, days=1, config="shared")
    with running("import sys; file = open(sys.argv[1])", str(hub.path / "blobs" / "w1")):
        assert shelf.prune("--include", "hub")[str(old)]["action"] == "kept"
    assert (old / "weights").read_bytes() == bytes(5000)


def test_a_repository_whose_links_lead_elsewhere_is_not_understood_and_left(shelf: Shelf):
    hub, precious = Hub(shelf), shelf.place / "precious"
    precious.write_text("kept")
    old = hub.revision(OLD, config="c1")
    hub.revision(NEW, config="c1")
    (old / "odd").symlink_to(precious)
    assert list_hub_entries(str(shelf.hub)) == ()


def start_in_project(watched: Watched, python: Path, options: tuple[str, ...], number: int) -> subprocess.Popen[bytes]:
    program = "import os, sys; print(os.environ['TRITON_CACHE_DIR'], flush=True); sys.stdin.readline()"
    command = [*PROGRAM, "--run-dir", str(watched.place / f"run{number}"), *options, "--", str(python), "-c", program]
    return subprocess.Popen(
        command,
        cwd=watched.place,
        env=watched.environment(HOME=str(watched.place / "home"), TMPDIR=str(watched.place / "temp")),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_two_supervisors_share_a_projects_place_and_it_goes_only_after_both(watched: Watched):
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for library in ("torch-2.13.0", "triton-3.7.0"):
        (watched.place / "venv" / "lib" / version / "site-packages" / f"{library}.dist-info").mkdir(parents=True)
    (watched.place / "venv" / "bin").mkdir()
    python = watched.place / "venv" / "bin" / "python"
    python.symlink_to(os.path.realpath(sys.executable))
    (watched.place / "pyproject.toml").touch()
    first, second = (start_in_project(watched, python, (), number) for number in (1, 2))
    try:
        places = {Path(process.stdout.readline().decode().strip()) for process in (first, second) if process.stdout}
        assert len(places) == 1
        project = places.pop().parent
        (project / "triton" / KEY).mkdir()
        age(project, 40)
        prune = [*COMMAND, "prune", "--older-than", "30d", "--json"]

        def attempt() -> dict[str, Any]:
            environment = watched.environment(HOME=str(watched.place / "home"), TMPDIR=str(watched.place / "temp"))
            done = subprocess.run(prune, cwd="/", env=environment, capture_output=True, text=True, check=False)
            (found,) = json.loads(done.stdout)["pruned"]["entries"]
            return found  # type: ignore[no-any-return]

        assert attempt()["action"] == "kept"
        first.communicate(b"\n", timeout=60)
        assert attempt()["action"] == "kept"
        assert (project / "triton" / KEY).is_dir()
        second.communicate(b"\n", timeout=60)
        assert attempt()["action"] == "deleted"
        assert not project.exists()
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


def test_two_who_prune_at_once_delete_what_is_old_and_nothing_else(shelf: Shelf):
    entries = [shelf.kernel(f"{number:064x}") for number in range(60)]
    young = shelf.kernel("f" * 64, days=1)
    words = ["--older-than", "30d", "--json"]
    with running("import sys; file = open(sys.argv[1] + '/kernel.cubin')", str(entries[7])):
        both = [
            subprocess.Popen(
                [*COMMAND, "prune", *words], cwd=shelf.work, env=shelf.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            for _ in range(2)
        ]
        ends = [process.communicate() for process in both]
    assert [(process.returncode, err) for process, (_, err) in zip(both, ends, strict=True)] == [(0, b"")] * 2
    deleted = [one["path"] for out, _ in ends for one in json.loads(out)["pruned"]["entries"] if one["action"] == "deleted"]
    assert sorted(path.name for path in shelf.triton.iterdir()) == sorted([entries[7].name, young.name])
    assert sorted(deleted) == sorted(str(entry) for entry in entries if entry != entries[7])  # each by one of them


def test_two_who_repair_one_cache_at_once_lose_nothing_of_it(shelf: Shelf):
    entry = shelf.kernel()
    both = [
        subprocess.Popen([*COMMAND, "repair", "triton"], cwd=shelf.work, env=shelf.environment, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    said = b"".join(process.communicate()[0] for process in both)
    assert shelf.triton.is_dir()
    assert b"moved " in said
    for one in json.loads(shelf.run("list", "--json").stdout)["quarantines"]:
        shelf.run("repair", "--restore", one["id"])
        if entry.exists():
            break
    assert (entry / "kernel.cubin").stat().st_size == 8192


def test_a_held_marker_keeps_a_project_even_when_nothing_else_shows_a_user(tmp_path: Path):
    project = tmp_path / "cache" / "project"
    project.mkdir(parents=True)
    (project / MARKER).touch()
    with open(project / MARKER) as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        with pytest.raises(MendError, match="a supervisor uses it"):
            Discard(str(project), check_top(str(tmp_path / "cache")), (), MARKER)
    assert project.is_dir()


def test_the_list_shows_size_age_owner_and_locks(shelf: Shelf):
    entry = shelf.kernel(size=100_000)
    with open(entry / "kernel.cubin") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        data = json.loads(shelf.run("list", "--json").stdout)
        text = shelf.run("list").stdout
    (row,) = (row for row in data["caches"] if row["cache"] == "triton")
    assert (row["path"], row["files"], row["entries"], row["locks_held"]) == (str(shelf.triton), 1, 1, 1)
    assert row["size_bytes"] >= 100_000
    assert "40 d ago" in text
    assert str(shelf.triton) in text


def soft_lock(shelf: Shelf, text: str) -> Path:
    lock = shelf.hub / ".locks" / "models--org--tiny" / "blob.lock.soft"
    lock.parent.mkdir(parents=True)
    lock.write_text(text)
    return lock


def restore(shelf: Shelf) -> subprocess.CompletedProcess[str]:
    (quarantine,) = json.loads(shelf.run("list", "--json").stdout)["quarantines"]
    return shelf.run("repair", "--restore", quarantine["id"])


def test_a_soft_lock_of_a_dead_owner_goes_to_quarantine_and_comes_back(shelf: Shelf):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    text = f"{ended.pid}\n{os.uname().nodename}\n"
    lock = soft_lock(shelf, text)
    result = shelf.run("repair")
    assert result.returncode == 0
    assert f"moved {lock}" in result.stdout
    assert not lock.exists()
    assert restore(shelf).stdout == f"restored {lock}\n"
    assert lock.read_text() == text
    assert json.loads(shelf.run("list", "--json").stdout)["quarantines"] == []


def test_one_broken_manifest_hides_no_other_quarantine_and_is_said(shelf: Shelf):
    kernel = shelf.kernel()
    assert shelf.run("repair", "triton").returncode == 0
    base = shelf.home / ".local" / "state" / "unsloth-watch" / "quarantine"
    (base / "00000000T000000Z-broken").mkdir()
    (base / "00000000T000000Z-broken" / "manifest.json").write_text("[{")
    listed = shelf.run("list")
    assert listed.returncode == 1
    assert "00000000T000000Z-broken/manifest.json cannot be understood" in listed.stdout
    broken, whole = json.loads(shelf.run("list", "--json").stdout)["quarantines"]
    assert (broken["originals"], whole["originals"], whole["fault"]) == ([], [str(shelf.triton)], "")
    refused = shelf.run("repair", "--restore", broken["id"])
    assert (refused.returncode, "put back by hand" in refused.stderr) == (1, True)
    assert shelf.run("repair", "--restore", whole["id"]).returncode == 0
    assert (kernel / "kernel.cubin").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a directory that belongs to somebody else")
def test_a_quarantine_that_somebody_else_made_is_not_ours_to_restore(shelf: Shelf):
    shelf.kernel()
    assert shelf.run("repair", "triton").returncode == 0
    (quarantine,) = json.loads(shelf.run("list", "--json").stdout)["quarantines"]
    os.chown(quarantine["path"], 54321, 54321)
    assert json.loads(shelf.run("list", "--json").stdout)["quarantines"] == []
    assert shelf.run("repair", "--restore", quarantine["id"]).returncode == 1


def test_a_lock_whose_number_was_given_anew_has_no_owner(shelf: Shelf):
    with running("") as pid:
        lock = soft_lock(shelf, f"{pid}\n{os.uname().nodename}\n")
        os.utime(lock, (1e9, 1e9))  # made long before that process
        assert f"moved {lock}" in shelf.run("repair").stdout
    assert restore(shelf).returncode == 0
    assert lock.exists()


@pytest.mark.parametrize("owner", ["living", "elsewhere"])
def test_a_soft_lock_that_may_have_an_owner_stays(shelf: Shelf, owner: str):
    with running("") as pid:
        lock = soft_lock(
            shelf, f"{pid if owner == 'living' else 1}\n{os.uname().nodename if owner == 'living' else 'another-host'}\n"
        )
        result = shelf.run("repair")
    assert result.returncode == 1
    assert f"{lock} stays" in result.stdout
    assert lock.exists()


def test_a_file_baton_that_a_builder_holds_stays_and_a_forgotten_one_goes(shelf: Shelf):
    lock = shelf.cache / "torch_extensions" / "py311_cpu" / "fused" / "lock"
    lock.parent.mkdir(parents=True)
    # As torch's FileBaton takes it: for reading only.
    with running("import os, sys; held = os.open(sys.argv[1], os.O_CREAT | os.O_EXCL)", str(lock)) as pid:
        os.utime(lock, (1e9, 1e9))
        assert f"{lock} stays: PID {pid} has it open" in shelf.run("repair").stdout
        assert lock.exists()
    assert f"moved {lock}" in shelf.run("repair").stdout
    assert not lock.exists()


def test_an_extension_with_a_lock_in_it_is_not_pruned(shelf: Shelf):
    lock = shelf.cache / "torch_extensions" / "py311_cpu" / "fused" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    age(lock.parent, 40)
    assert "lock file lies in it" in shelf.prune()[str(lock.parent)]["why"]


def test_half_written_files_go_to_quarantine_unless_they_are_young_or_open(shelf: Shelf):
    entry = shelf.kernel()
    old, young, held = (entry / name for name in ("old.so", "young.so", "held.so"))
    for path in (old, young, held):
        path.touch()
    age(entry, 1)
    age(young, 0)
    with running("import sys; file = open(sys.argv[1])", str(held)):
        shelf.run("repair")
    assert [path.exists() for path in (old, young, held)] == [False, True, True]
    assert (entry / "kernel.cubin").exists()


def test_a_whole_cache_is_built_anew_and_its_predecessor_comes_back_without_loss_of_either(shelf: Shelf):
    entry = shelf.kernel()
    shelf.triton.chmod(0o750)
    result = shelf.run("repair", "triton")
    assert result.returncode == 0
    assert list(shelf.triton.iterdir()) == []
    assert shelf.triton.stat().st_mode & 0o777 == 0o750
    shelf.kernel(OTHER)  # the next run fills it
    result = restore(shelf)
    assert result.returncode == 0
    assert (entry / "kernel.cubin").stat().st_size == 8192
    assert not (shelf.triton / OTHER).exists()
    assert restore(shelf).returncode == 0  # what was in the way has a quarantine of its own
    assert (shelf.triton / OTHER / "kernel.cubin").exists()


def test_a_cache_in_use_is_not_repaired(shelf: Shelf):
    entry = shelf.kernel()
    with running("import sys; file = open(sys.argv[1] + '/kernel.cubin')", str(entry)) as pid:
        result = shelf.run("repair", "triton")
    assert (result.returncode, f"PID {pid} uses it" in result.stdout) == (1, True)
    assert entry.exists()


def test_models_cannot_be_built_anew_and_an_unknown_quarantine_is_said(shelf: Shelf):
    result = shelf.run("repair", "hf-hub")
    assert (result.returncode, "no cache that can be built anew" in result.stderr) == (64, True)
    result = shelf.run("repair", "--restore", "nothing")
    assert (result.returncode, "there is no quarantine nothing" in result.stderr) == (1, True)


def test_a_file_in_the_place_of_a_cache_is_moved_aside_and_a_directory_made(shelf: Shelf):
    shelf.triton.parent.mkdir()
    shelf.triton.write_text("somebody's")
    assert shelf.run("repair").returncode == 0
    assert shelf.triton.is_dir()
    assert restore(shelf).returncode == 0
    assert shelf.triton.read_text() == "somebody's"


def in_namespace(shelf: Shelf, script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script as root with mounts of its own; skip where that is impossible."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    run = ["unshare", "--mount", "sh", "-ec", script]
    done = subprocess.run(run, env=shelf.environment, cwd=shelf.work, capture_output=True, text=True, check=False, timeout=60)
    if "unshare" in done.stderr:
        pytest.skip(f"no private mount namespace here: {done.stderr.strip()}")
    return done


def test_a_cache_on_a_read_only_file_system_stays_as_it_is_and_is_said(shelf: Shelf):
    entry = shelf.kernel()
    done = in_namespace(
        shelf,
        f"mount --bind {shelf.triton} {shelf.triton}; mount -o remount,ro,bind {shelf.triton}; "
        f"{SHELL} prune --older-than 30d; {SHELL} repair triton || true",
    )
    assert f"kept: triton {KEY}" in done.stdout
    assert "Read-only file system" in done.stdout
    assert (entry / "kernel.cubin").stat().st_size == 8192


def test_a_quarantine_on_a_full_file_system_leaves_the_cache_whole(shelf: Shelf):
    entry = shelf.kernel(size=300_000)
    state = shelf.home / ".local" / "state"
    state.mkdir(parents=True)
    done = in_namespace(shelf, f"mount -t tmpfs -o size=128k none {state}; {SHELL} repair triton || echo status $?; find {state}")
    assert "status 1" in done.stdout
    assert f"{shelf.triton} stays: No space left on device" in done.stdout
    assert "/kernel.cubin" not in done.stdout
    assert (entry / "kernel.cubin").stat().st_size == 300_000


def test_a_quarantine_on_another_file_system_takes_everything_and_gives_it_back(shelf: Shelf):
    entry = shelf.kernel()
    state = shelf.home / ".local" / "state"
    state.mkdir(parents=True)
    done = in_namespace(
        shelf,
        f"mount -t tmpfs -o size=8m none {state}; {SHELL} repair triton; ls {shelf.triton}; "
        f"{SHELL} repair --restore $(ls {state}/unsloth-watch/quarantine)",
    )
    assert f"restored {shelf.triton}" in done.stdout
    assert (entry / "kernel.cubin").stat().st_size == 8192


def test_what_is_mounted_inside_an_entry_is_not_deleted_with_it(shelf: Shelf):
    entry, precious = shelf.kernel(), shelf.place / "precious"
    precious.mkdir()
    (precious / "file").write_text("kept")
    (entry / "mounted").mkdir()
    age(entry, 40)
    age(precious, 40)
    done = in_namespace(shelf, f"mount --bind {precious} {entry}/mounted; {SHELL} prune --older-than 30d; cat {precious}/file")
    assert f"{entry}/mounted is mounted there" in done.stdout
    assert done.stdout.endswith("kept")
    assert (precious / "file").read_text() == "kept"


def test_a_repository_that_a_download_waits_for_stays(shelf: Shelf):
    hub = Hub(shelf)
    hub.revision(OLD, ref="main", config="c1")
    lock = shelf.hub / ".locks" / hub.path.name / "c2.lock"
    lock.parent.mkdir(parents=True)
    with running("import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX)", str(lock)) as pid:
        assert shelf.prune("--include", "hub")[str(hub.path)]["why"] == f"PID {pid} uses it"
    assert hub.path.is_dir()
    assert shelf.prune("--include", "hub")[str(hub.path)]["action"] == "deleted"
    assert lock.exists()  # a lock file is never deleted: somebody may be about to lock it


def test_a_link_that_leads_nowhere_is_left_for_its_disk_to_come_back(shelf: Shelf):
    shelf.triton.parent.mkdir()
    shelf.triton.symlink_to(shelf.place / "not-mounted")
    result = shelf.run("repair")
    assert (result.returncode, "leads nowhere" in result.stdout) == (1, True)
    assert shelf.triton.is_symlink()


@pytest.mark.parametrize(
    ("mount", "reason"),
    [
        ("mount -t tmpfs -o ro none {cache}", "Read-only file system"),
        ("mount -t tmpfs -o size=64k none {cache}; cat /dev/zero > {cache}/filler 2>/dev/null || true", "No space left on device"),
    ],
)
def test_a_launch_goes_on_where_its_caches_place_is_read_only_or_full(shelf: Shelf, mount: str, reason: str):
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (shelf.place / "venv" / "lib" / version / "site-packages" / "triton-3.7.0.dist-info").mkdir(parents=True)
    (shelf.place / "venv" / "bin").mkdir()
    python = shelf.place / "venv" / "bin" / "python"
    python.symlink_to(os.path.realpath(sys.executable))
    (shelf.work / "pyproject.toml").touch()
    shelf.cache.mkdir()
    program = 'import os; print(os.environ.get("TRITON_CACHE_DIR"))'
    done = in_namespace(shelf, f"{mount.format(cache=shelf.cache)}; {' '.join(PROGRAM)} -- {python} -c '{program}'")
    assert (done.returncode, done.stdout) == (0, "None\n")
    assert f"--cache auto: compile caches stay where they are: {reason}" in done.stderr
