"""Runs are found by id, beginning, name, directory and ``latest``; finished runs answer too."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from watched import PROGRAM, Watched


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs: two of one name, and one that hung."""
    place = tmp_path_factory.mktemp("runs")
    environment = Watched(place).environment()
    for words in (["--name", "twice", "true"], ["--name", "twice", "sh", "-c", "exit 3"]):
        subprocess.run([*PROGRAM, *words], env=environment, cwd=place, capture_output=True, check=False)
    hung = ["--name", "hung", "--stall-timeout", "2s", "--interval", "0.1s", "--on-hang", "stop", "--grace", "0.2s", "sleep", "600"]
    assert (
        subprocess.run([*PROGRAM, *hung], env=environment, cwd=place, capture_output=True, check=False, timeout=100).returncode
        == 124
    )
    return place


def verb(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *words], env=Watched(place).environment(), cwd=place, capture_output=True, text=True, check=False
    )


def test_runs_lists_them_newest_first(runs: Path) -> None:
    listed = verb(runs, "runs")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert [line.split("-")[1] for line in listed.stdout.splitlines()] == ["hung", "twice", "twice"]
    assert "hung, exit status 124" in listed.stdout
    rows = json.loads(verb(runs, "runs", "--json").stdout)["runs"]
    assert [row["run"]["exit_code"] for row in rows] == [124, 3, 0]


def test_a_run_is_found_by_whatever_names_it(runs: Path) -> None:
    rows = json.loads(verb(runs, "runs", "--json").stdout)["runs"]
    newest, second, oldest = (row["run"]["id"] for row in rows)
    for word, expected in [
        ("latest", newest), (oldest, oldest), (oldest[:-1], oldest), ("twice", second), ("hung", newest), (rows[2]["directory"], oldest),
    ]:  # fmt: skip
        found = verb(runs, "show", word, "--json")
        assert found.returncode == 0, found.stderr
        assert json.loads(found.stdout)["run"]["id"] == expected, word
    assert json.loads(verb(runs, "show", "--json").stdout)["run"]["id"] == newest


@pytest.mark.parametrize(("word", "phrase"), [("2", "begins 3 runs"), ("no-such-run", "there is no run"), ("", "there is no run")])
def test_a_word_that_means_no_run_or_several_is_refused_in_one_line(runs: Path, word: str, phrase: str) -> None:
    found = verb(runs, "show", word)
    assert found.returncode != 0
    assert phrase in found.stderr
    assert found.stderr.count("\n") == 1


def test_the_report_of_an_incident_is_printed_or_given_as_data(runs: Path) -> None:
    printed = verb(runs, "report", "hung")
    assert printed.returncode == 0, printed.stderr
    assert "sleep 600" in printed.stdout
    report = json.loads(verb(runs, "report", "hung", "--json", "--incident", "1").stdout)
    assert report["schema"] == "unsloth-watch/incident/1"
    for words, phrase in [(("hung", "--incident", "7"), "no incident 7"), (("twice",), "no incidents")]:
        refused = verb(runs, "report", *words)
        assert refused.returncode != 0
        assert phrase in refused.stderr


def test_the_report_is_opened_as_a_page_in_the_users_browser(runs: Path) -> None:
    browser = runs / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {runs}/opened\n')
    browser.chmod(0o755)
    environment = {**Watched(runs).environment(), "BROWSER": str(browser)}
    words = [*PROGRAM, "report", "hung", "--open"]
    done = subprocess.run(words, env=environment, cwd=runs, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (runs / "opened").read_text().strip().removeprefix("file://")
    assert Path(page).read_text().startswith("<!")


def test_a_bundle_holds_the_incident_and_the_records(runs: Path) -> None:
    made = verb(runs, "bundle", "hung")
    assert made.returncode == 0, made.stderr
    with tarfile.open(made.stdout.strip()) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert {"run.json", "events.jsonl", "report.json", "report.md"} <= names


def test_runs_dir_makes_a_directory_for_every_start_and_the_verbs_find_them_there(watched: Watched) -> None:
    place = watched.place / "elsewhere"
    for _ in range(2):
        words = [*PROGRAM, "--runs-dir", str(place), "--name", "again", "true"]
        subprocess.run(words, env=watched.environment(), cwd=watched.place, check=True, capture_output=True)
    assert len(list(place.iterdir())) == 2
    rows = json.loads(verb(watched.place, "runs", "--runs-dir", str(place), "--json").stdout)["runs"]
    assert [row["run"]["outcome"] for row in rows] == ["completed", "completed"]
    both = verb(watched.place, "--runs-dir", "a", "--run-dir", "b", "true")
    assert both.returncode == 78
    assert "exclude each other" in both.stderr
