"""The documents say what the program has: verbs, options, causes, modules, links."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from unsloth_watch.cli.main import VERBS, main
from unsloth_watch.config.option import BY_NAME
from unsloth_watch.diagnose.knowledge import CAUSES
from unsloth_watch.sense.heartbeat import HeartbeatReader
from unsloth_watch.tell.catalogue import EVENTS

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "watchdog" / "unsloth_watch"
README = ROOT / "README.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
PARTS = [("cache", "list"), ("cache", "prune"), ("cache", "repair"), ("service", "print"), ("service", "install")]

pytestmark = pytest.mark.quick


def read_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return what ``--help`` prints after these words, on one line."""
    try:
        status: object = main([*words, "--help"])
    except SystemExit as end:  # argparse's way out
        status = end.code
    assert status == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("words", [(verb,) for verb in VERBS] + PARTS, ids=" ".join)
def test_the_help_of_every_verb_has_an_example_of_that_verb(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert f"example: unsloth-watch {words[0]}" in read_help(list(words), capsys)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_in_the_readme_and_in_the_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert re.search(rf"`(unsloth-watch )?{verb}\b", README.read_text())
    assert re.search(rf"\b{verb}\b", read_help([], capsys))


def test_the_options_of_the_readme_are_options() -> None:
    named = set(re.findall(r"^\| `--(?:no-)?([a-z-]+)", README.read_text(), re.MULTILINE))
    assert len(named) > 10
    assert named <= BY_NAME.keys()


def test_the_causes_in_the_documents_are_those_of_the_catalogue() -> None:
    table = (ROOT / "docs" / "reports.md").read_text().partition("## The causes")[2].partition("\n## ")[0]
    first = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    assert {cause for cell in first for cause in re.findall(r"`([a-z-]+)`", cell)} == CAUSES | {"unknown"}


def test_the_events_in_the_documents_are_those_of_the_catalogue_with_their_fields() -> None:
    table = (ROOT / "docs" / "reports.md").read_text().partition("| event | when | fields |")[2].partition("\n\n")[0]
    told: dict[str, set[str]] = {}
    for row in table.splitlines()[2:]:
        _, events, _, fields, _ = row.split("|")
        for event, words in zip(re.findall(r"`([a-z.]+)`", events), [*fields.split(";"), ""], strict=False):
            told[event] = set(re.findall(r"`([a-z_]+)`", words))
    assert told == {event: set(fields) for event, fields in EVENTS.items()}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_document_leads_to_a_file(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text())
    assert [link for link in links if "://" not in link and not (document.parent / link).exists()] == []


def test_the_modules_that_documents_name_exist() -> None:
    named = {path for document in DOCUMENTS for path in re.findall(r"`([a-z]+/[a-z]+\.(?:py|toml))`", document.read_text())}
    assert len(named) > 10
    assert sorted(path for path in named if not (PACKAGE / path).exists()) == []


@pytest.mark.parametrize("package", ["judge", "supervise"])
def test_the_modules_of_a_table_of_the_architecture_exist(package: str) -> None:
    title = {"judge": "| module of `judge` |", "supervise": "| module | what it owns |"}[package]
    rows = ARCHITECTURE.read_text().partition(title)[2].partition("\n\n")[0].splitlines()[2:]
    named = [name for row in rows for name in re.findall(r"`([a-z]+)`", row.split("|")[1])]
    assert len(named) > 5
    assert [name for name in named if not (PACKAGE / package / f"{name}.py").exists()] == []


@pytest.mark.parametrize("name", ["short", "x" * 100], ids=["a path", "an abstract name"])
def test_the_snippet_that_reports_a_step_is_heard(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "judge.md").read_text(), re.DOTALL)
    assert snippet is not None
    words: dict[str, Any] = {}
    exec(compile(snippet[1], "docs/judge.md", "exec"), words)
    (tmp_path / name).mkdir()
    reader = HeartbeatReader(str(tmp_path / name))
    try:
        monkeypatch.setenv("NOTIFY_SOCKET", reader.address)
        words["report"](7)
        assert reader.latest() == 7
    finally:
        reader.close()
    words["report"](8)  # nobody listens any more, and the training goes on
