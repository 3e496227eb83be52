"""The registry of caches and what lies in them, on real layouts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from environments import interpreter_of
from unsloth_watch.capture.cacheentry import list_entries, measure
from unsloth_watch.capture.cacheregistry import CACHES, CacheKind, find_place
from unsloth_watch.capture.halfwritten import find_half_written
from unsloth_watch.capture.interpreter import find_interpreter
from unsloth_watch.capture.usage import read_usage
from watched import PROGRAM


def kind_of(name: str) -> CacheKind:
    (kind,) = (kind for kind in CACHES if kind.id == name)
    return kind


@pytest.mark.quick
@pytest.mark.parametrize(
    ("cache", "environment", "path", "origin"),
    [
        ("torch-extensions", {"XDG_CACHE_HOME": "/c"}, "/c/torch_extensions", "XDG_CACHE_HOME"),
        ("hf-xet", {"HF_HOME": "/hf"}, "/hf/xet", "HF_HOME"),
        ("hf-xet", {"HF_HOME": "/hf", "HF_XET_CACHE": "/x"}, "/x", "HF_XET_CACHE"),
        ("datasets", {}, "/home/ann/.cache/huggingface/datasets", "default"),
        ("vllm", {"VLLM_CACHE_ROOT": "/v"}, "/v", "VLLM_CACHE_ROOT"),
        ("numba", {"NUMBA_CACHE_DIR": "n"}, "/job/n", "NUMBA_CACHE_DIR"),
        ("cuda", {}, "/home/ann/.nv/ComputeCache", "default"),
        ("unsloth-mega", {}, "/home/ann/.cache/unsloth/mega_cache", "default"),
        ("unsloth-fallback", {"UNSLOTH_COMPILE_LOCATION": "/a/mine"}, "/tmp/mine", "default"),
        ("unsloth-fallback", {}, "/tmp/unsloth_compiled_cache", "default"),
    ],
)
def test_each_cache_of_the_registry_lies_where_its_library_puts_it(cache: str, environment: dict[str, str], path: str, origin: str):
    place = find_place(kind_of(cache), {"HOME": "/home/ann", **environment}, "/job", "ann", {})
    assert (place.path, place.origin) == (path, origin)


@pytest.mark.quick
def test_what_was_begun_and_not_finished_is_found_by_name_or_emptiness(tmp_path: Path):
    begun = ["blobs/abc.incomplete", "x.tmp", "kernel.cubin", "module.py", "lib.so"]
    whole = ["__init__.py", "README", ".lock.module.py", "full.so"]
    (tmp_path / "blobs").mkdir()
    for name in (*begun, *whole):
        (tmp_path / name).touch()
    (tmp_path / "full.so").write_bytes(b"x")
    (tmp_path / "link.tmp").symlink_to("/etc/passwd")
    assert sorted(os.path.relpath(path, tmp_path) for path in find_half_written(str(tmp_path))) == sorted(begun)


@pytest.mark.quick
def test_a_tree_is_measured_without_following_links_and_files_with_two_names_count_once(tmp_path: Path):
    (tmp_path / "file").write_bytes(bytes(100_000))
    os.link(tmp_path / "file", tmp_path / "again")
    (tmp_path / "out").symlink_to("/usr")
    extent = measure(str(tmp_path))
    assert extent.files == 1
    assert 100_000 <= extent.size_bytes < 200_000
    assert extent.owners == {os.geteuid()}


def test_who_uses_a_file_is_found_by_name_by_inode_and_by_environment(tmp_path: Path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "file").write_text("x")
    os.link(tmp_path / "cache" / "file", tmp_path / "elsewhere")
    program = "import sys; f = open(sys.argv[1]); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program, str(tmp_path / "elsewhere")]
    environment = {**os.environ, "SOME_CACHE": str(tmp_path / "other" / "deep")}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        usage = read_usage()
        extent = measure(str(tmp_path / "cache"))
        assert usage.find_users(str(tmp_path / "cache"), extent.inodes) == {process.pid}
        assert usage.find_users(str(tmp_path / "cache"), frozenset()) == set()
        assert usage.find_named(str(tmp_path / "other")) == {process.pid}
        assert usage.find_named(str(tmp_path / "oth")) == set()
        process.communicate()


@pytest.mark.quick
@pytest.mark.parametrize(
    "command", [["bash", "train.sh"], ["env", "X=1", "python", "t.py"], ["timeout", "9", sys.executable, "t.py"]]
)
def test_the_python_behind_a_wrapper_is_found(command: list[str]):
    environment = {"PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
    found = find_interpreter(command, environment, "/")
    assert found is not None
    assert os.path.realpath(found.path) == os.path.realpath(sys.executable)


@pytest.mark.quick
def test_a_command_that_is_no_python_has_none():
    assert find_interpreter(["/bin/true"], {"PATH": "/usr/bin:/bin"}, "/") is None


COMPILE = """
import sys, torch
@torch.compile
def f(x): return (x.sin() + 2 * x.cos()).sum()
f(torch.randn(100))
print("compiled", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.unsloth
@pytest.mark.timeout(300)
def test_a_real_inductor_cache_is_recognised_and_kept_while_it_is_used(tmp_path: Path):
    (tmp_path / "home").mkdir()
    (tmp_path / "inductor").mkdir()
    (tmp_path / "temp").mkdir()
    environment = {
        "HOME": str(tmp_path / "home"),
        "PATH": os.environ["PATH"],
        "TMPDIR": str(tmp_path / "temp"),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"),
    }
    prune = [*PROGRAM, "cache", "prune", "--max-size", "0"]
    command = [str(interpreter_of("base")), "-c", COMPILE]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as job:
        try:
            assert job.stdout is not None
            assert job.stdout.readline() == b"compiled\n"
            names = {path.name for path in (tmp_path / "inductor").iterdir()}
            entries = list_entries(kind_of("inductor"), str(tmp_path / "inductor"))
            assert {Path(entry.path).relative_to(tmp_path / "inductor").parts[0] for entry in entries} == names - {"locks"}
            kept = subprocess.run(prune, cwd=tmp_path / "home", env=environment, capture_output=True, text=True, check=False)
            assert f"PID {job.pid}" in kept.stdout
            assert "deleted" not in kept.stdout
        finally:
            job.communicate()
    gone = subprocess.run(prune, cwd=tmp_path / "home", env=environment, capture_output=True, text=True, check=True)
    assert "deleted: inductor" in gone.stdout
    assert list_entries(kind_of("inductor"), str(tmp_path / "inductor")) == ()
    assert (tmp_path / "inductor" / "locks").is_dir()
