"""``doctor`` on real interpreters, real locks and real faults; what it says of a command that it never starts."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from environments import interpreter_of
from unsloth_watch.model.checkup import Finding, Level, grade
from watched import PROGRAM


class Desk:
    """A user with a home and a project."""

    def __init__(self, place: Path) -> None:
        self.home, self.work = place / "home", place / "work"
        self.home.mkdir()
        (self.work / "scripts").mkdir(parents=True)
        (self.work / "temp").mkdir()
        self.script = self.work / "scripts" / "train.py"
        self.script.write_text("open('started', 'w')")
        self.environment = {
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
            "TMPDIR": str(self.work / "temp"),
            "HF_HUB_OFFLINE": "1",
            "UNSLOTH_DISABLE_STATISTICS": "1",
        }

    def run(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PROGRAM, "doctor", *words],
            cwd=self.work,
            env={**self.environment, **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

    def look(self, *words: str, fix: bool = False, **more: str) -> dict[str, Any]:
        result = self.run("--json", *(("--fix",) if fix else ()), *words, **more)
        assert result.stderr == ""
        answer: dict[str, Any] = json.loads(result.stdout)
        assert answer["status"] == result.returncode
        return answer

    def findings(self, *words: str, **more: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.look(*words, **more)["findings"]
        return found

    def find(self, name: str, *words: str, **more: str) -> dict[str, Any]:
        (found,) = (finding for finding in self.findings(*words, **more) if finding["name"] == name)
        return found


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.mark.unsloth
def test_todays_library_is_fine_and_its_versions_are_its_own(desk: Desk):
    found = desk.findings("--", str(interpreter_of("modern")), str(desk.script))
    concerned = [finding for finding in found if finding["group"] in ("command", "libraries", "variables", "caches", "network")]
    assert [finding for finding in concerned if finding["level"] in ("warning", "error")] == []
    (libraries,) = (finding for finding in found if finding["group"] == "libraries")
    assert "unsloth_zoo 2026.10.7" in libraries["state"]
    assert "torch 2.13.0" in libraries["state"]  # and +cpu, where its wheel comes from PyTorch's own index


@pytest.mark.unsloth
def test_the_founding_version_is_told_to_hang_before_it_does(desk: Desk):
    python = str(interpreter_of("founding"))
    answer = desk.look("--", python, "scripts/train.py")
    (cache,) = (finding for finding in answer["findings"] if finding["level"] == "error")
    assert answer["status"] == 2
    assert cache["name"] == "unsloth-compiled"
    assert f"{desk.work} is not on the job's import path" in cache["state"]
    assert cache["mend"] == f"PYTHONPATH={desk.work}"
    (library,) = (finding for finding in answer["findings"] if finding["name"] == "unsloth_zoo")
    assert "2025.3.1" in library["state"]
    assert "1898" in library["why"]
    mended = desk.look("--", python, "scripts/train.py", PYTHONPATH=str(desk.work))
    assert mended["status"] == 1  # the version is still an old one
    assert all(finding["name"] != "unsloth-compiled" or finding["level"] == "ok" for finding in mended["findings"])


@pytest.mark.unsloth
def test_a_variable_that_nothing_reads_and_one_that_the_import_removes_are_said(desk: Desk):
    python = str(interpreter_of("modern"))
    found = desk.findings("--", python, UNSLOTH_CACHE_DIR="/x", TORCHINDUCTOR_CACHE_DIR=str(desk.work), UNSLOTH_COMPILE_DISABLE="0")
    said = {finding["name"]: finding for finding in found if finding["group"] == "variables"}
    assert set(said) == {"UNSLOTH_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"}
    assert "UNSLOTH_COMPILE_LOCATION" in said["UNSLOTH_CACHE_DIR"]["mend"]
    assert "import unsloth removes it" in said["TORCHINDUCTOR_CACHE_DIR"]["why"]


@pytest.mark.unsloth
def test_many_ranks_on_an_old_version_are_warned_of_the_barrier(desk: Desk):
    python = str(interpreter_of("founding"))
    alone = desk.findings("--", python, "scripts/train.py")
    ranks = desk.findings("--", python, "-m", "torch.distributed.run", "--nproc-per-node", "2", "scripts/train.py")
    assert not any("barrier" in finding.get("why", "") for finding in alone)
    assert any("barrier" in finding.get("why", "") for finding in ranks)


@pytest.mark.unsloth
def test_the_launch_that_follows_uses_the_places_that_were_told(desk: Desk):
    python = str(interpreter_of("modern"))
    (desk.work / "pyproject.toml").touch()
    told = desk.find("triton", "--", python)["state"].split(" (")[0]
    assert not (desk.home / ".cache").exists()  # looking makes nothing
    program = "import os; print(os.environ['TRITON_CACHE_DIR'])"
    command = [*PROGRAM, "--quiet", "--", python, "-c", program]
    launched = subprocess.run(command, cwd=desk.work, env=desk.environment, capture_output=True, text=True, check=True, timeout=60)
    assert launched.stdout.strip() == told
    assert Path(told).is_dir()


def test_nothing_of_the_command_is_started_and_nothing_of_its_directory_imported(desk: Desk):
    (desk.work / "json.py").write_text("open('imported', 'w')")
    (desk.work / "importlib").mkdir()
    # Not by -m, which puts the directory on our own import path.
    program = "import sys; sys.path[:1] = []; from unsloth_watch.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "doctor", "--json", "--", sys.executable, str(desk.script)]
    done = subprocess.run(command, cwd=desk.work, env=desk.environment, capture_output=True, text=True, check=False, timeout=60)
    assert json.loads(done.stdout)["findings"]
    assert sorted(path.name for path in desk.work.iterdir()) == ["importlib", "json.py", "scripts", "temp"]


def test_a_command_that_is_not_there_is_an_error(desk: Desk):
    found = desk.find("no-such-program", "--", "no-such-program")
    assert (found["level"], found["state"]) == ("error", "not found, or not executable")


def test_a_python_that_does_not_answer_is_an_error_with_its_words(desk: Desk):
    broken = desk.work / "python3"
    broken.write_text("#!/bin/sh\necho 'libpython is missing' >&2\nexit 1\n")
    broken.chmod(0o755)
    found = desk.find("Python", "--", str(broken), "train.py")
    assert found["level"] == "error"
    assert "libpython is missing" in found["state"]


def test_the_python_of_a_script_is_that_of_its_first_line(desk: Desk):
    script = desk.work / "launcher"
    script.write_text(f"#!{sys.executable}\n")
    script.chmod(0o755)
    found = desk.find("Python", "--", str(script))
    assert found["state"].endswith(f"at {sys.executable}")
    assert found["source"] == f"the first line of {script}"


def test_where_each_setting_comes_from_is_told(desk: Desk):
    (desk.work / "unsloth-watch.toml").write_text('stall-timeout = "7m"\n')
    found = desk.findings(UNSLOTH_WATCH_GRACE="3s")
    said = {finding["name"]: (finding["state"], finding.get("source")) for finding in found if finding["group"] == "settings"}
    assert said["stall-timeout"] == ("7m", f"{desk.work}/unsloth-watch.toml: stall-timeout")
    assert said["grace"] == ("3s", "UNSLOTH_WATCH_GRACE")
    assert "busy-timeout 30m" in said["others"][0]


def test_a_wrong_setting_is_a_finding_and_not_the_end(desk: Desk):
    found = desk.find("settings", UNSLOTH_WATCH_GRCE="3s")
    assert found["level"] == "error"
    assert "UNSLOTH_WATCH_GRCE" in found["state"]


def test_a_missing_temporary_directory_is_made_by_fix_with_its_undo(desk: Desk):
    missing = desk.work / "deep" / "missing"
    assert desk.find("TMPDIR", TMPDIR=str(missing))["level"] == "warning"
    answer = desk.look(fix=True, TMPDIR=str(missing))
    assert missing.is_dir()
    (change,) = answer["changes"]
    assert change["undo"] == f"rm -r {missing.parent}"
    assert not any(finding["name"] == "TMPDIR" for finding in answer["findings"])


def with_torch(desk: Desk) -> dict[str, str]:
    """Make torch look installed, as far as metadata tells."""
    info = desk.work / "site" / "torch-2.13.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0\n")
    return {"PYTHONPATH": str(desk.work / "site")}


def test_a_lock_without_an_owner_is_an_error_and_fix_moves_it_to_quarantine(desk: Desk):
    more = with_torch(desk)
    lock = desk.home / ".cache" / "torch_extensions" / "py311_cpu" / "fused" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, (1e9, 1e9))
    answer = desk.look("--", sys.executable, **more)
    assert answer["status"] == 2
    assert lock.exists()
    answer = desk.look("--", sys.executable, fix=True, **more)
    assert not lock.exists()
    (change,) = answer["changes"]
    assert change["undo"] == f"mv {change['after']} {lock}"
    assert answer["status"] < 2


def test_a_lock_that_a_builder_has_open_is_only_noted(desk: Desk):
    more = with_torch(desk)
    lock = desk.home / ".cache" / "torch_extensions" / "py311_cpu" / "fused" / "lock"
    lock.parent.mkdir(parents=True)
    held = os.open(lock, os.O_CREAT | os.O_EXCL)  # as torch's FileBaton takes it
    try:
        answer = desk.look("--", sys.executable, fix=True, **more)
    finally:
        os.close(held)
    assert lock.exists()
    assert answer["changes"] == []
    (found,) = (finding for finding in answer["findings"] if finding["name"] == "torch-extensions")
    assert (found["level"], f"PID {os.getpid()} has it open" in found["state"]) == ("note", True)


def test_a_cache_that_is_a_file_is_an_error_where_the_library_needs_it(desk: Desk):
    more = with_torch(desk)
    (desk.work / "occupied").touch()
    found = desk.find("inductor", "--", sys.executable, TORCHINDUCTOR_CACHE_DIR=str(desk.work / "occupied"), **more)
    assert (found["level"], found["source"]) == ("error", "TORCHINDUCTOR_CACHE_DIR")


def test_few_open_files_are_a_warning_with_the_command_that_mends_it(desk: Desk):
    words = " ".join([*PROGRAM, "doctor", "--json"])
    done = subprocess.run(
        ["sh", "-c", f"ulimit -S -n 512; {words}"],
        cwd=desk.work, env=desk.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    (found,) = (finding for finding in json.loads(done.stdout)["findings"] if finding["name"] == "open files")
    assert (found["level"], found["state"]) == ("warning", "at most 512 open files")
    assert found["mend"].startswith("ulimit -n ")


def test_a_closed_standard_input_is_a_warning(desk: Desk):
    words = " ".join([*PROGRAM, "doctor", "--json"])
    done = subprocess.run(
        ["sh", "-c", f"{words} <&-"], cwd=desk.work, env=desk.environment, capture_output=True, text=True, check=False, timeout=60
    )
    (found,) = (finding for finding in json.loads(done.stdout)["findings"] if finding["name"] == "stdin")
    assert (found["level"], found["state"]) == ("warning", "closed")


def test_secrets_in_variables_do_not_show(desk: Desk):
    result = desk.run(HF_TOKEN="hf_abcdefghijklmnopqrstuvwxyz0123", UNSLOTH_LOCK_TIMEOUT="-1")
    assert "hf_abcdefghijklmnopqrstuvwxyz0123" not in result.stdout


@pytest.mark.parametrize(("more", "has_colour"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colour_is_only_for_a_terminal(desk: Desk, more: dict[str, str], has_colour: bool):
    assert "\x1b" not in desk.run(**more).stdout
    ours, theirs = pty.openpty()
    command = [*PROGRAM, "doctor"]
    with subprocess.Popen(command, cwd=desk.work, env={**desk.environment, **more}, stdin=theirs, stdout=theirs) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # EIO: the other end is closed
                break
            if not chunk:
                break
            shown += chunk
        process.wait(60)
    os.close(ours)
    assert (b"\x1b[32mok" in shown) is has_colour
    assert b"0 errors" in shown


@pytest.mark.quick
@pytest.mark.parametrize(
    ("levels", "status"),
    [([], 0), ([Level.FINE, Level.NOTE], 0), ([Level.WARNING, Level.FINE], 1), ([Level.WARNING, Level.ERROR], 2)],
)
def test_the_exit_status_is_that_of_the_gravest_finding(levels: list[Level], status: int):
    assert grade(tuple(Finding("group", "name", level, "state") for level in levels)) == status
