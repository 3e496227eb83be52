"""Verbs meet names that are no UTF-8, readers that leave early, and settings that cannot be read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from unsloth_watch.config.load import find_project_file
from unsloth_watch.errors import ConfigError
from watched import PROGRAM

pytestmark = pytest.mark.quick


def make_run(runs: Path, name: bytes) -> None:
    words = [os.fsencode(word) for word in (*PROGRAM, "--runs-dir", str(runs), "--quiet", "--")]
    subprocess.run([*words, b"true", name], check=True, timeout=60)


def test_a_directory_whose_name_is_no_utf_8_costs_no_answer(tmp_path: Path) -> None:
    runs = tmp_path / os.fsdecode(b"l\xe4ufe")
    make_run(runs, b"\xff")
    shown = subprocess.run([*PROGRAM, "show", "--runs-dir", str(runs)], capture_output=True, check=False, timeout=60)
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert rb"l\udce4ufe" in shown.stdout
    listed = subprocess.run([*PROGRAM, "runs", "--json", "--runs-dir", str(runs)], capture_output=True, check=True, timeout=60)
    assert len(json.loads(listed.stdout)["runs"]) == 1


def test_a_reader_that_leaves_early_is_no_failure_of_ours(tmp_path: Path) -> None:
    make_run(tmp_path, b"word")
    reading, writing = os.pipe()
    os.close(reading)
    shown = subprocess.run(
        [*PROGRAM, "show", "--runs-dir", str(tmp_path)], stdout=writing, stderr=subprocess.PIPE, check=False, timeout=60
    )
    os.close(writing)
    assert (shown.returncode, shown.stderr) == (141, b"")


def test_a_person_who_has_waited_long_enough_gets_no_traceback() -> None:
    program = "import os, signal, sys\nfrom unsloth_watch.cli.main import main\nfrom unsloth_watch.cli import inspect\n"
    program += "inspect.examine = lambda *_: os.kill(os.getpid(), signal.SIGINT)\nsys.exit(main(['inspect', '1']))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=60)
    assert (result.returncode, result.stderr) == (130, b"")


def test_a_project_file_that_may_not_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch(mode=0)
    if os.access(tmp_path / "pyproject.toml", os.R_OK):
        pytest.skip("this user may read every file; run the tests as another than root")
    with pytest.raises(ConfigError, match="cannot be read"):
        find_project_file(str(tmp_path))
