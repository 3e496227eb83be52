"""The unit that is printed: systemd reads it without a complaint, and nothing of the command is expanded."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from unsloth_watch.tell.unit import MARK, Unit, quote_command, render_unit
from watched import PROGRAM, Watched

CONFIGS = Path(__file__).parents[2] / "configs"
EXAMPLE = Unit(
    name="train",
    program=("/opt/train/.venv/bin/unsloth-watch",),
    options=("--runs-dir", "/var/lib/train/runs", "--name", "train"),
    command=("/opt/train/.venv/bin/python", "train.py", "--output", "/var/lib/train/out"),
    directory="/opt/train",
    environment={"PATH": "/opt/train/.venv/bin:/usr/local/bin:/usr/bin:/bin"},
    environment_file="/etc/unsloth-watch/train.env",
    reload_options=("--runs-dir", "/var/lib/train/runs"),
    user="train",
)
SCORE_LIMIT = 3.5
"""Exposure by ``systemd-analyze security``, of 10. systemd 252 says 3.1, as the documentation does."""


@pytest.mark.quick
def test_words_are_quoted_so_that_systemd_gives_them_back() -> None:
    assert quote_command(("/a b/$x", "$HOME", "50%", 'say "hi"', "", "back\\slash", "two\nlines", ";")) == (
        '"/a b/$x" $$HOME 50%% "say \\"hi\\"" "" "back\\\\slash" "two\\nlines" ";"'
    )


@pytest.mark.quick
def test_the_example_in_configs_is_what_the_program_prints() -> None:
    assert (CONFIGS / "unsloth-watch-train.service").read_text() == render_unit(EXAMPLE)


def require_analyze() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze; apt-get install systemd")


@pytest.mark.parametrize("is_user", [False, True])
def test_systemd_reads_the_unit_without_a_word(watched: Watched, is_user: bool) -> None:
    require_analyze()
    words = [*PROGRAM, "service", "print", *(["--user"] if is_user else []), "--name", "verified", "--", "sleep", "1"]
    printed = subprocess.run(words, cwd=watched.place, env=watched.environment(), capture_output=True, text=True, check=True)
    unit = watched.place / "unsloth-watch-verified.service"
    unit.write_text(printed.stdout)
    verify = ["systemd-analyze", *(["--user"] if is_user else []), "--man=no", "--recursive-errors=no", "verify", str(unit)]
    environment = watched.environment(XDG_RUNTIME_DIR=str(watched.place))
    result = subprocess.run(verify, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_security_score_is_what_the_documentation_says(watched: Watched) -> None:
    require_analyze()
    unit = watched.place / "unsloth-watch-train.service"
    unit.write_text(render_unit(EXAMPLE))
    result = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)], capture_output=True, text=True, check=False
    )
    match = re.search(r"Overall exposure level for \S+: ([\d.]+)", result.stdout)
    assert match, result.stdout + result.stderr
    assert float(match[1]) <= SCORE_LIMIT


def test_install_for_a_user_writes_where_systemd_looks_and_overwrites_only_what_is_ours(watched: Watched) -> None:
    home = watched.place / "home"
    home.mkdir()
    words = [*PROGRAM, "service", "install", "--user", "--name", "mine", "--", "sleep", "1"]
    environment = watched.environment(HOME=str(home), XDG_RUNTIME_DIR=str(watched.place))
    for _ in range(2):
        done = subprocess.run(words, cwd=watched.place, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    unit = home / ".config/systemd/user/unsloth-watch-mine.service"
    assert unit.read_text().startswith(MARK)
    assert f"wrote {unit}" in done.stdout
    assert "systemctl --user daemon-reload" in done.stdout
    unit.write_text("[Service]\n")
    done = subprocess.run(words, cwd=watched.place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "is not ours" in done.stderr
    assert unit.read_text() == "[Service]\n"


@pytest.mark.parametrize(
    ("words", "phrase"),
    [
        (["print"], "no command"),
        (["print", "--run-dir", "x", "--", "true"], "--runs-dir"),
        (["print", "--", "no-such-command-anywhere"], "cannot find"),
        (["print", "--run-as", "nobody-of-this-name", "--", "true"], "no account"),
        (["print", "--stal-timeout", "5", "--", "true"], "did you mean --stall-timeout"),
        (["prnt"], "invalid choice"),
    ],
)
def test_a_wrong_command_line_is_one_clear_line(watched: Watched, words: list[str], phrase: str) -> None:
    environment = {name: value for name, value in watched.environment().items() if name != "SUDO_USER"}
    done = subprocess.run(
        [*PROGRAM, "service", *words], cwd=watched.place, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 64
    assert phrase in done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1


def test_no_secret_of_the_environment_gets_into_a_unit(watched: Watched) -> None:
    environment = watched.environment(HF_TOKEN="hf_secret_value", WANDB_API_KEY="abcdef", HF_HOME="/data/hf")
    words = [*PROGRAM, "service", "print", "--", "true"]
    printed = subprocess.run(words, cwd=watched.place, env=environment, capture_output=True, text=True, check=True).stdout
    assert "hf_secret_value" not in printed
    assert "abcdef" not in printed
    assert "Environment=HF_HOME=/data/hf" in printed
    assert f"Environment=PATH={os.environ['PATH']}" in printed.replace('"', "")
