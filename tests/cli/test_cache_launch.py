"""``--cache auto`` with the real library: where Unsloth's own code lands, and what stays in the project's directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from environments import interpreter_of
from founding.faults import CACHE, FAULTS, command_of, lay_out
from watched import Watched

pytestmark = pytest.mark.unsloth


def train(place: Path, python: Path, *options: str, **more: str) -> Watched:
    """Run the example to its end in a project of its own."""
    watched = Watched(place / "job")
    watched.directory = place / "run"
    lay_out(watched.place)
    (watched.place / "pyproject.toml").touch()
    command, environment = command_of(FAULTS["healthy"], python, watched.place)
    environment |= {"XDG_CACHE_HOME": str(place.parent / "cache"), "XDG_STATE_HOME": str(place / "state")}
    status, out, err = watched.run(*command, options=options, env={**environment, **more})
    assert (status, b"training done" in out) == (0, True), err
    return watched


def test_two_projects_have_generated_code_of_their_own_and_nothing_in_their_directories(tmp_path: Path):
    python = interpreter_of("modern")
    places = []
    for name in ("first", "second"):
        watched = train(tmp_path / name, python)
        (place,) = (choice["path"] for choice in watched.summary()["caches"] if choice["cache"] == "unsloth-compiled")
        places.append(Path(place))
        assert (Path(place) / "scaled_mse.py").exists()
        assert not (watched.place / CACHE).exists()
    assert places[0] != places[1]


def test_keep_leaves_the_generated_code_where_the_library_puts_it(tmp_path: Path):
    watched = train(tmp_path / "first", interpreter_of("modern"), "--cache", "keep")
    assert (watched.place / CACHE / "scaled_mse.py").exists()
    assert watched.summary()["caches"] == []


def test_the_founding_version_cannot_be_moved_and_the_record_says_so(tmp_path: Path):
    watched = train(tmp_path / "first", interpreter_of("founding"))
    (choice,) = (choice for choice in watched.summary()["caches"] if choice["cache"] == "unsloth-compiled")
    assert choice["path"] is None
    assert "2025.3.1 does not read UNSLOTH_COMPILE_LOCATION" in choice["why"]
    assert (watched.place / CACHE / "scaled_mse.py").exists()


def test_a_directory_of_the_users_choice_is_used_by_the_real_library(tmp_path: Path):
    watched = train(tmp_path / "first", interpreter_of("modern"), "--cache", "caches")
    assert (watched.place / "caches" / CACHE / "scaled_mse.py").exists()
