"""Caches, versions and import paths, seen in real processes and compared with what these themselves say."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from unsloth_watch.capture.cacheregistry import CACHES, find_place
from unsloth_watch.capture.caches import probe_caches
from unsloth_watch.capture.importpath import find_prefix, job_import_path
from unsloth_watch.capture.lockfiles import describe_lock_files, find_lock_files, list_directories
from unsloth_watch.capture.mount import find_mount, read_mounts
from unsloth_watch.capture.package import find_package
from unsloth_watch.capture.process import read_process, read_start
from unsloth_watch.capture.versions import read_versions
from unsloth_watch.capture.writeprobe import Identity, probe_write, read_identity
from unsloth_watch.model.evidence import CacheProbe, Frame, ProcessEvidence, ThreadEvidence
from unsloth_watch.model.process import ProcessRef

TELL = "import json, sys; print(json.dumps(sys.path), flush=True); sys.stdin.read()"
ORDINARY = Identity(uid=os.geteuid(), groups=frozenset(), has_override=False)


class Program:
    """A Python that says its own ``sys.path`` and waits."""

    def __init__(self, place: Path, *arguments: str, python: str = sys.executable, **environment: str) -> None:
        self.process = subprocess.Popen(
            [python, *arguments],
            cwd=place,
            env={"PATH": os.environ["PATH"], "HOME": str(place), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.sys_path = json.loads(self.process.stdout.readline())

    def evidence(self) -> ProcessEvidence:
        start = read_start(self.process.pid)
        assert start is not None
        read = read_process(ProcessRef(self.process.pid, start))
        assert read is not None
        return ProcessEvidence(
            ref=read.ref,
            ppid=read.ppid,
            command=read.command,
            executable=read.executable,
            cwd=read.cwd,
            environment=read.environment,
            state=read.state,
            uid=read.uid,
            python_version=".".join(str(number) for number in sys.version_info[:3]),
        )

    def close(self) -> None:
        self.process.communicate()


@pytest.fixture
def start(tmp_path: Path) -> Iterator:
    programs: list[Program] = []
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "train.py").write_text(TELL)
    (tmp_path / "runner.py").write_text(TELL)

    def begin(*arguments: str, **environment: str) -> Program:
        programs.append(Program(tmp_path, *arguments, **environment))
        return programs[-1]

    yield begin
    for program in programs:
        program.close()


def existing(paths: list[str], cwd: Path) -> list[str]:
    """Return what of a real ``sys.path`` can be compared: existing entries, made absolute, each once."""
    absolute = [os.path.normpath(os.path.join(cwd, path)) for path in paths]
    return list(dict.fromkeys(path for path in absolute if os.path.exists(path)))


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (("scripts/train.py",), {}),
        (("-m", "runner"), {}),
        (("-c", TELL), {}),
        (("-I", "scripts/train.py"), {"PYTHONPATH": "scripts"}),
        (("-E", "scripts/train.py"), {"PYTHONPATH": "scripts", "PYTHONSAFEPATH": "1"}),
        (("scripts/train.py",), {"PYTHONPATH": "/usr:relative:"}),
        (("scripts/train.py",), {"PYTHONSAFEPATH": "1", "PYTHONPATH": "."}),
        (("-u", "-X", "dev", "scripts/train.py"), {}),
    ],
)
def test_the_import_path_is_the_one_that_the_program_itself_has(start, tmp_path: Path, arguments, environment):
    program = start(*arguments, **environment)
    found = job_import_path(program.evidence())
    expected = existing(program.sys_path, tmp_path)
    # Path hooks of editable installs add entries that no file names; all of ours must be real and in the same order.
    assert [path for path in found if os.path.exists(path)] == [path for path in expected if path in found]
    assert [path for path in expected if path not in found and "site-packages" not in path and not path.endswith("watchdog")] == []


def test_the_prefix_is_the_virtual_environment_and_not_what_it_links_to(start):
    assert find_prefix(start("scripts/train.py").evidence()) == sys.prefix


def test_the_versions_are_those_that_the_job_would_import(start, tmp_path: Path):
    for name, version in (("unsloth_zoo", "2025.3.1"), ("torch", "9.9+cpu")):
        info = tmp_path / "site" / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    late = tmp_path / "late" / "torch-1.0.dist-info"
    late.mkdir(parents=True)
    (late / "METADATA").write_text("Version: 1.0\n")
    program = start("scripts/train.py", PYTHONPATH=f"{tmp_path}/site:{tmp_path}/late")
    versions = read_versions([program.evidence()])
    assert versions["unsloth_zoo"] == "2025.3.1"
    assert versions["torch"] == "9.9+cpu"


def test_a_site_directory_is_known_from_the_frames_when_nothing_else_leads_to_it(tmp_path: Path):
    info = tmp_path / "site-packages" / "trl-1.5.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Version: 1.5.0\n")
    frame = Frame("train", f"{tmp_path}/site-packages/trl/trainer.py", 3)
    process = ProcessEvidence(ProcessRef(1, 1), 0, threads=(ThreadEvidence(1, "MainThread", True, (frame,)),))
    assert read_versions([process]) == {"trl": "1.5.0"}


def test_a_process_that_runs_no_python_has_no_versions():
    assert read_versions([ProcessEvidence(ProcessRef(1, 1), 0, command=("bash",), executable="/bin/bash", cwd="/")]) == {}


@pytest.fixture
def zoo(tmp_path: Path) -> str:
    """An installed unsloth_zoo of the founding version, as far as metadata tells."""
    info = tmp_path / "site" / "unsloth_zoo-2025.3.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Version: 2025.3.1\n")
    return str(tmp_path / "site")


def probe(program: Program, cache: str) -> CacheProbe:
    (found,) = (item for item in probe_caches([program.evidence()]) if item.cache == cache)
    return found


def test_a_script_in_a_folder_leaves_the_cache_unimportable_although_it_exists(start, tmp_path: Path, zoo: str):
    (tmp_path / "unsloth_compiled_cache").mkdir()
    found = probe(start("scripts/train.py", PYTHONPATH=zoo), "unsloth-compiled")
    assert found.path == str(tmp_path / "unsloth_compiled_cache")
    assert (found.exists, found.is_directory, found.is_writable, found.is_importable) == (True, True, True, False)
    assert any("not on the job's import path" in problem for problem in found.problems)
    assert list((tmp_path / "unsloth_compiled_cache").iterdir()) == []


def test_the_working_directory_on_the_path_makes_the_cache_importable(start, tmp_path: Path, zoo: str):
    (tmp_path / "unsloth_compiled_cache").mkdir()
    found = probe(start("scripts/train.py", PYTHONPATH=f"{zoo}:."), "unsloth-compiled")
    assert (found.is_importable, found.problems) == (True, ())


def test_a_missing_cache_whose_parent_is_on_the_path_is_not_called_unimportable(start, zoo: str):
    found = probe(start("scripts/train.py", PYTHONPATH=f"{zoo}:."), "unsloth-compiled")
    assert (found.exists, found.is_writable, found.is_importable) == (False, True, None)


def test_a_file_in_the_caches_place_is_a_problem(start, tmp_path: Path, zoo: str):
    (tmp_path / "unsloth_compiled_cache").write_text("")
    found = probe(start("scripts/train.py", PYTHONPATH=zoo), "unsloth-compiled")
    assert (found.exists, found.is_directory, found.is_writable) == (True, False, False)
    assert any("a file where the directory should be" in problem for problem in found.problems)


def test_a_package_of_the_same_name_is_found_first(start, tmp_path: Path, zoo: str):
    (tmp_path / "unsloth_compiled_cache").mkdir()
    shadow = tmp_path / "scripts" / "unsloth_compiled_cache"
    shadow.mkdir()
    (shadow / "__init__.py").touch()
    found = probe(start("scripts/train.py", PYTHONPATH=f"{zoo}:."), "unsloth-compiled")
    assert (found.is_importable, found.shadowed_by) == (False, str(shadow))


def test_directories_of_the_same_name_without_init_share_one_namespace(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name / "cache").mkdir(parents=True)
    assert find_package(str(tmp_path / "b" / "cache"), [f"{tmp_path}/a", f"{tmp_path}/b"]).is_found
    assert not find_package(str(tmp_path / "b" / "cache"), [f"{tmp_path}/a"]).is_found


def test_a_module_of_the_same_name_hides_the_directory(tmp_path: Path):
    (tmp_path / "b" / "cache").mkdir(parents=True)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "cache.py").touch()
    found = find_package(str(tmp_path / "b" / "cache"), [f"{tmp_path}/a", f"{tmp_path}/b"])
    assert (found.is_found, found.shadowed_by) == (False, str(tmp_path / "a" / "cache.py"))


def test_the_old_version_is_not_believed_to_read_the_variable(start, tmp_path: Path, zoo: str):
    found = probe(start("scripts/train.py", PYTHONPATH=zoo, UNSLOTH_COMPILE_LOCATION="/elsewhere"), "unsloth-compiled")
    assert (found.path, found.origin) == (str(tmp_path / "unsloth_compiled_cache"), "default")


@pytest.mark.quick
@pytest.mark.parametrize(
    ("cache", "environment", "path", "origin"),
    [
        ("unsloth-compiled", {"UNSLOTH_COMPILE_LOCATION": "here"}, "/job/here", "UNSLOTH_COMPILE_LOCATION"),
        ("hf-hub", {"HF_HOME": "/hf"}, "/hf/hub", "HF_HOME"),
        ("hf-hub", {"HF_HOME": "/hf", "HF_HUB_CACHE": "~/x"}, "/home/ann/x", "HF_HUB_CACHE"),
        ("triton", {}, "/home/ann/.triton/cache", "default"),
        ("inductor", {"TMPDIR": "/scratch"}, "/scratch/torchinductor_ann", "TMPDIR"),
        ("inductor", {"TORCHINDUCTOR_CACHE_DIR": "/i"}, "/i", "TORCHINDUCTOR_CACHE_DIR"),
    ],
)
def test_a_cache_lies_where_the_jobs_own_variables_say(cache: str, environment: dict[str, str], path: str, origin: str):
    (kind,) = (kind for kind in CACHES if kind.id == cache)
    place = find_place(kind, {"HOME": "/home/ann", **environment}, "/job", "ann", {})
    assert (place.path, place.origin) == (path, origin)


@pytest.mark.quick
def test_a_variable_that_the_import_removes_is_passed_over():
    (kind,) = (kind for kind in CACHES if kind.id == "inductor")
    place = find_place(kind, {"TORCHINDUCTOR_CACHE_DIR": "/i"}, "/job", "ann", {"TORCHINDUCTOR_CACHE_DIR": False})
    assert place.path == "/tmp/torchinductor_ann"


def test_a_lock_that_a_stranger_holds_below_the_cache_is_found(start, tmp_path: Path, zoo: str):
    locks = tmp_path / "unsloth_compiled_cache" / ".locks"
    locks.mkdir(parents=True)
    with open(locks / ".lock.x.py", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        found = probe(start("scripts/train.py", PYTHONPATH=zoo), "unsloth-compiled")
    (lock,) = found.lock_holders
    assert (lock.pid, lock.path, lock.is_inside) == (os.getpid(), str(locks / ".lock.x.py"), False)


def test_a_write_probe_leaves_nothing_behind(tmp_path: Path):
    own = read_identity("self")
    assert probe_write(str(tmp_path), own, own).is_writable is True
    assert list(tmp_path.iterdir()) == []


def test_a_job_without_roots_power_may_not_write_where_the_bits_forbid_it(tmp_path: Path):
    tmp_path.chmod(0o555)
    try:
        result = probe_write(str(tmp_path), ORDINARY, read_identity("self"))
    finally:
        tmp_path.chmod(0o755)
    assert result.is_writable is False
    assert result.problem


def test_another_users_directory_is_judged_by_its_bits(tmp_path: Path):
    stranger = Identity(uid=54321, groups=frozenset({54321}), has_override=False)
    assert probe_write(str(tmp_path), stranger, read_identity("self")).is_writable is False
    tmp_path.chmod(0o777)
    assert probe_write(str(tmp_path), stranger, read_identity("self")).is_writable is True


@pytest.mark.skipif(os.geteuid() != 0, reason="a full disk is made by mounting a small tmpfs, which needs root")
def test_a_full_disk_is_seen_although_files_can_be_created(tmp_path: Path):
    code = (
        "import sys; from unsloth_watch.capture.writeprobe import probe_write, read_identity; me = read_identity('self');"
        "print(probe_write(sys.argv[1], me, me))"
    )
    script = f'mount -t tmpfs -o size=64k none {tmp_path} && cat /dev/zero > {tmp_path}/filler 2>/dev/null; {sys.executable} -c "{code}" {tmp_path}'
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False)
    if "unshare" in done.stderr:
        pytest.skip(f"no private mount namespace here: {done.stderr.strip()}")
    assert "is_writable=False" in done.stdout
    assert "No space left" in done.stdout or "disk is full" in done.stdout


def test_a_lock_file_is_described_with_who_has_it_open_and_whom_it_names(tmp_path: Path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "lock").touch()
    (tmp_path / "a.soft").write_text(f"{ended.pid}\n{os.uname().nodename}\n")
    with open(tmp_path / "lock"):
        files = describe_lock_files(find_lock_files([str(tmp_path)], ("lock", ".soft")))
    soft, baton = files
    assert (soft.owner, soft.is_owner_alive) == (ended.pid, False)
    assert baton.openers == (os.getpid(),)


def test_a_lock_file_is_not_followed_through_a_link(tmp_path: Path):
    (tmp_path / "real").touch()
    (tmp_path / "lock").symlink_to(tmp_path / "real")
    assert find_lock_files([str(tmp_path)], ("lock",)) == []


def test_a_walk_is_bounded_and_follows_no_links(tmp_path: Path):
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert list_directories(str(tmp_path), 2) == [str(tmp_path), f"{tmp_path}/a", f"{tmp_path}/a/b"]
    assert list_directories(str(tmp_path), 9, limit=2) == [str(tmp_path), f"{tmp_path}/a"]


def test_the_file_system_of_a_path_is_its_nearest_mount():
    mounts = read_mounts()
    proc = find_mount("/proc/self/status", mounts)
    assert proc is not None
    assert proc.type == "proc"
    root = find_mount("/nonexistent", mounts)
    assert root is not None
    assert root.point == "/"
