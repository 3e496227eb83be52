"""``--cache``: where a launch puts the compile caches, and when it leaves them alone."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from pathlib import Path

import pytest

from unsloth_watch.act.installed import read_installed
from unsloth_watch.act.isolation import MARKER, Isolation, isolate
from unsloth_watch.act.project import find_project, name_project

pytestmark = pytest.mark.quick

NEW = {"torch": "2.13.0", "triton": "3.7.0", "unsloth_zoo": "2026.10.7"}


class Project:
    """A project with a virtual environment in which libraries look installed."""

    def __init__(self, place: Path) -> None:
        self.home = place / "home"
        self.root = place / "project"
        self.home.mkdir()
        self.root.mkdir()
        (self.root / "pyproject.toml").touch()
        self.bin = place / "venv" / "bin"
        self.bin.mkdir(parents=True)
        (self.bin / "python").symlink_to(os.path.realpath(sys.executable))
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.site = place / "venv" / "lib" / version / "site-packages"
        self.site.mkdir(parents=True)
        self.environment = {"HOME": str(self.home), "PATH": str(self.bin), "TMPDIR": str(place / "temp"), "USER": "ann"}

    def install(self, site: Path | None = None, **versions: str) -> None:
        for name, version in versions.items():
            ((site or self.site) / f"{name}-{version}.dist-info").mkdir(parents=True)

    def isolate(self, setting: str = "auto", *, cwd: Path | None = None, program: str = "", **more: str) -> Isolation:
        command = [program or str(self.bin / "python"), "train.py"]
        return isolate(setting, {**self.environment, **more}, command, str(cwd or self.root))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def whys(isolation: Isolation) -> dict[str, str]:
    return {choice.cache: choice.why for choice in isolation.choices if choice.path is None}


def test_a_project_gets_places_of_its_own_that_exist_and_are_private(project: Project):
    project.install(**NEW)
    found = project.isolate()
    assert set(found.variables) == {"UNSLOTH_COMPILE_LOCATION", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"}
    for path in map(Path, found.variables.values()):
        assert path.is_relative_to(project.home / ".cache" / "unsloth-watch")
        assert path.stat().st_mode & 0o777 == 0o700
    marker = json.loads((Path(found.variables["TRITON_CACHE_DIR"]).parent / MARKER).read_text())
    assert (marker["project"], marker["versions"]["unsloth_zoo"]) == (str(project.root), "2026.10.7")


def test_neither_two_projects_nor_two_versions_share_a_place(project: Project, tmp_path: Path):
    project.install(**NEW)
    other = tmp_path / "other"
    (other / ".git").mkdir(parents=True)
    first, second = project.isolate(), project.isolate(cwd=other)
    (project.site / "torch-2.13.0.dist-info").rename(project.site / "torch-2.14.0.dist-info")
    third = project.isolate()
    places = {isolation.variables["TRITON_CACHE_DIR"] for isolation in (first, second, third)}
    assert len(places) == 3


def test_two_runs_of_one_project_share_its_place_from_any_folder_of_it(project: Project):
    project.install(**NEW)
    (project.root / "deep" / "er").mkdir(parents=True)
    assert project.isolate().variables == project.isolate(cwd=project.root / "deep" / "er").variables


def test_keep_leaves_everything_and_makes_nothing(project: Project):
    project.install(**NEW)
    assert project.isolate("keep").choices == ()
    assert list(project.home.iterdir()) == []


def test_a_directory_takes_them_all_whatever_is_warm(project: Project, tmp_path: Path):
    project.install(**NEW)
    (project.home / ".triton" / "cache" / "key").mkdir(parents=True)
    found = project.isolate("here")
    assert found.variables["TRITON_CACHE_DIR"] == str(project.root / "here" / "triton")
    assert Path(found.variables["UNSLOTH_COMPILE_LOCATION"]).is_dir()


@pytest.mark.parametrize("name", ["UNSLOTH_COMPILE_LOCATION", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TRITON_HOME"])
def test_the_users_own_variable_wins(project: Project, name: str):
    project.install(**NEW)
    found = project.isolate(**{name: "/mine"})
    assert f"{name} is set by the user" in whys(found).values()
    assert name not in found.variables


def test_a_version_that_does_not_read_the_variable_is_told_so_and_left_alone(project: Project):
    project.install(unsloth_zoo="2025.3.1", torch="2.6.0")
    found = project.isolate()
    assert "does not read UNSLOTH_COMPILE_LOCATION" in whys(found)["unsloth-compiled"]
    assert str(project.root / "unsloth_compiled_cache") in whys(found)["unsloth-compiled"]
    assert set(found.variables) == {"TORCHINDUCTOR_CACHE_DIR"}


@pytest.mark.parametrize(("version", "is_read"), [("2025.7.10", False), ("2025.7.11", True), ("2025.10.1", True), ("2026.1", True)])
def test_the_first_version_that_reads_the_variable_is_known(project: Project, version: str, is_read: bool):
    project.install(unsloth_zoo=version)
    assert ("UNSLOTH_COMPILE_LOCATION" in project.isolate().variables) is is_read


def test_what_import_unsloth_removes_is_not_set_in_vain(project: Project):
    project.install(**NEW, unsloth="2026.10.7")
    assert "import unsloth removes" in whys(project.isolate())["inductor"]


@pytest.mark.parametrize("place", ["home/.triton/cache/KEY", "temp/torchinductor_ann/triton/0/KEY", "temp/torchinductor_ann/ab"])
def test_a_warm_cache_is_never_made_cold(project: Project, tmp_path: Path, place: str):
    project.install(**NEW)
    (tmp_path / place).mkdir(parents=True)
    assert any("is warm" in why for why in whys(project.isolate()).values())


def test_a_project_that_has_its_place_keeps_it_when_the_shared_one_becomes_warm(project: Project):
    project.install(**NEW)
    first = project.isolate()
    (project.home / ".triton" / "cache" / "KEY").mkdir(parents=True)
    assert project.isolate().variables == first.variables


def test_locks_alone_do_not_make_a_cache_warm(project: Project, tmp_path: Path):
    project.install(**NEW)
    (tmp_path / "temp" / "torchinductor_ann" / "locks").mkdir(parents=True)
    assert "TORCHINDUCTOR_CACHE_DIR" in project.isolate().variables


def test_outside_of_a_project_only_what_is_written_anew_anyway_is_moved(project: Project, tmp_path: Path):
    project.install(**NEW)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert set(project.isolate(cwd=scratch).variables) == {"UNSLOTH_COMPILE_LOCATION"}


def test_files_that_the_user_keeps_are_not_left_behind(project: Project):
    project.install(**NEW)
    (project.root / "unsloth_compiled_cache").mkdir()
    (project.root / "unsloth_compiled_cache" / "kept.py").touch()
    assert "is warm" in whys(project.isolate(UNSLOTH_COMPILE_OVERWRITE="0"))["unsloth-compiled"]
    assert "unsloth-compiled" not in whys(project.isolate())


def test_home_is_no_project_whatever_lies_in_it(project: Project):
    (project.home / ".git").mkdir()
    (project.home / "work").mkdir()
    assert find_project(str(project.home / "work"), ["python"], project.environment) is None


def test_a_script_elsewhere_leads_to_its_project(project: Project, tmp_path: Path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = ["python", str(project.root / "train.py")]
    assert find_project(str(scratch), command, project.environment) == str(project.root)


def test_a_command_without_these_libraries_is_left_alone(project: Project):
    assert project.isolate().choices == ()
    assert project.isolate(program="/bin/true").choices == ()
    assert list(project.home.iterdir()) == []


def test_a_shell_script_has_the_libraries_of_the_first_python(project: Project):
    project.install(**NEW)
    assert read_installed(["bash", "train.sh"], project.environment, "/")["torch"] == "2.13.0"
    assert read_installed(["true"], project.environment, "/") == {}


def test_libraries_behind_a_pth_file_are_found(project: Project, tmp_path: Path):
    project.install(tmp_path / "base", torch="2.13.0")
    (project.site / "base.pth").write_text(f"import sys\n# a comment\n{tmp_path / 'base'}\n")
    assert read_installed([str(project.bin / "python")], {}, "/")["torch"] == "2.13.0"


def test_a_place_that_cannot_be_made_is_said_and_the_launch_goes_on(project: Project):
    project.install(**NEW)
    (project.home / ".cache").write_text("in the way")
    found = project.isolate()
    assert found.variables == {}
    assert found.trouble is not None
    assert "Not a directory" in found.trouble or "File exists" in found.trouble


def test_the_marker_is_held_as_long_as_the_descriptor_lives_and_by_several(project: Project):
    project.install(**NEW)
    first, second = project.isolate(), project.isolate()
    assert first.lock_fd is not None
    assert second.lock_fd is not None
    marker = Path(first.variables["TRITON_CACHE_DIR"]).parent / MARKER
    with open(marker) as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(first.lock_fd)
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(second.lock_fd)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_place_that_is_being_pruned_is_not_used(project: Project):
    project.install(**NEW)
    first = project.isolate()
    assert first.lock_fd is not None
    os.close(first.lock_fd)
    with open(Path(first.variables["TRITON_CACHE_DIR"]).parent / MARKER) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        found = project.isolate()
    assert found.variables == {}
    assert "being pruned" in (found.trouble or "")


def test_the_name_of_a_place_is_fit_for_a_file_system_whatever_a_version_says():
    assert "/" not in name_project("/p", {"torch": "2.13.0+cpu/../x"})
    assert name_project("/p", {"torch": "2.13.0+cpu"}).endswith("-torch2.13.0+cpu")


def test_the_python_that_a_wrapper_starts_decides(project: Project):
    project.install(**NEW)
    environment = {"HOME": str(project.home), "PATH": "/usr/bin:/bin"}
    command = ["timeout", "9", str(project.bin / "python"), "train.py"]
    assert read_installed(command, environment, "/")["torch"] == "2.13.0"
