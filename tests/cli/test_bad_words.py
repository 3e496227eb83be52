"""Bad input to every verb: one line that names the thing and the next step, and the status that the documents give."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from unsloth_watch.cli.arguments import WIDTH
from unsloth_watch.cli.main import VERBS, main

PROGRAM = [sys.executable, "-m", "unsloth_watch"]
PARTS = [(verb,) for verb in VERBS] + [("cache", part) for part in ("list", "prune", "repair")]
NO_PROCESS = "9" * 15  # more than a process id can be


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty project of a user without runs."""
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("words", "status", "phrases"),
    [
        ("--stall-timeout 0 -- true", 64, ["--stall-timeout", "between 1ms and a year"]),
        ("--stall-timeout 1h --busy-timeout 1m -- true", 78, ["busy-timeout (1m)", "stall-timeout (1h)", "raise busy-timeout"]),
        ("--profile nigt -- true", 78, ["there is no profile 'nigt'", "overnight"]),
        ("--run-dir a --runs-dir b -- true", 78, ["exclude each other"]),
        ("inspct 1", 127, ["cannot find inspct", "did you mean unsloth-watch inspect?"]),
        ("inspect 0", 64, ["'0' is not a process id", "inspect --help"]),
        (f"inspect {NO_PROCESS}", 3, [NO_PROCESS, "see ps -e"]),
        ("attach", 64, ["needs one process id", "attach --help"]),
        ("attach 0", 64, ["'0' is not a process id", "attach --help"]),
        (f"attach {NO_PROCESS}", 3, [NO_PROCESS, "see ps -e"]),
        *((f"{verb} lost", 3, ["there are no runs in", "--runs-dir"]) for verb in ("show", "report", "bundle", "replay")),
        *((f"{verb} lost", 3, ["there are no runs in"]) for verb in ("stop", "capture", "restart", "pause", "resume", "reload")),
        ("report --incident x", 64, ["--incident", "whole number of at least 1", "report --help"]),
        ("cache prune", 64, ["--older-than 30d, --max-size 20G"]),
        ("cache prune --older-than soon", 64, ["'soon' is not a duration"]),
        ("cache repair triton --restore 1", 64, ["--restore", "not both"]),
        ("service", 64, ["print|install"]),
        ("service print", 64, ["no command to run"]),
        ("service print --user --run-as root -- true", 64, ["--run-as", "not allowed with", "--user"]),
        ("service print --grace 5s --user -- true", 64, ["--user goes before", "service print --user"]),
        ("service print --run-dir x -- true", 64, ["--run-dir", "use --runs-dir"]),
        ("doctor train.py", 64, ["unrecognized arguments: train.py"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_error_is_one_line_with_the_thing_and_the_next_step(words: str, status: int, phrases: list[str]) -> None:
    # In a process of its own: a launch makes its process the reaper of everybody's orphans.
    done = subprocess.run([*PROGRAM, *words.split()], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (status, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("unsloth-watch: ")
    assert [phrase for phrase in phrases if phrase not in line] == []


@pytest.mark.quick
@pytest.mark.parametrize("words", [(), *PARTS], ids=" ".join)
def test_a_help_fits_into_80_columns_and_has_an_example(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    lines = read_help(words, capsys).splitlines()
    # A path of the user cannot be broken.
    assert [line for line in lines if len(line) > WIDTH and "/" not in line] == []
    assert [line for line in lines if line.startswith("example: unsloth-watch")] != []


@pytest.mark.quick
@pytest.mark.parametrize("verb", sorted({*VERBS} - {"runs"}))
def test_the_help_of_a_verb_tells_its_exit_statuses(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "exit status: " in read_help((verb,), capsys)


def read_help(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    """Return what ``--help`` prints after these words."""
    try:
        status: object = main([*words, "--help"])
    except SystemExit as end:  # argparse's way out
        status = end.code
    assert status == 0
    return capsys.readouterr().out
