"""A command line with a secret in it as a service: warned of, and in a unit that only its owner reads."""

from __future__ import annotations

import subprocess

import pytest

from watched import PROGRAM, Watched

TOKEN = "hf_QwErTyUiOpAsDfGhJkLzXcVbNmQwErTy12"


@pytest.mark.parametrize(("words", "mode"), [(("sleep", "1"), 0o644), (("sleep", "--token", TOKEN), 0o600)])
def test_a_unit_that_holds_a_secret_is_private_and_warned_of(watched: Watched, words: tuple[str, ...], mode: int) -> None:
    command = [*PROGRAM, "service", "install", "--user", "--name", "mine", "--", *words]
    home = watched.place / "home"
    home.mkdir()
    done = subprocess.run(
        command, cwd=watched.place, env=watched.environment(HOME=str(home)), capture_output=True, text=True, check=True
    )
    unit = home / ".config/systemd/user/unsloth-watch-mine.service"
    assert unit.stat().st_mode & 0o777 == mode
    assert ("looks as if it held a secret" in done.stderr) is (mode == 0o600)
    assert TOKEN not in done.stderr
    assert f"{home}/.config/unsloth-watch/mine.env" in done.stderr or mode == 0o644
