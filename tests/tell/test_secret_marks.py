"""Secrets of a run that is over, found again by marks that do not hold them; and memory that does not grow with their number."""

from __future__ import annotations

import os
import sys
import tarfile
from pathlib import Path

import pytest

from unsloth_watch.cli import bundle
from unsloth_watch.tell.redact import KNOWN_LIMIT, Redactor
from unsloth_watch.tell.secretmarks import NAME, hide, make_marks, read_marks, write_marks
from watched import Watched

TOKEN = "f4k3-Token-of-the-run"
PASSPHRASE = "correct horse 7 staple"


@pytest.mark.quick
def test_marked_secrets_are_found_anywhere_and_the_marks_do_not_hold_them(tmp_path: Path) -> None:
    hunted = Redactor({"X_TOKEN": TOKEN, "DB_PASSPHRASE": PASSPHRASE}).hunted
    write_marks(str(tmp_path), make_marks(hunted))
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
    assert TOKEN not in (tmp_path / NAME).read_text()
    marks = read_marks(str(tmp_path))
    assert marks is not None
    text = f"{TOKEN}\nx{TOKEN}{TOKEN}y said\n‘{PASSPHRASE}’ {PASSPHRASE[:-1]}\n{TOKEN[:-1]}"
    assert hide(text, marks) == (f"‹token-1›\nx‹token-1›‹token-1›y said\n‘‹password-1›’ {PASSPHRASE[:-1]}\n{TOKEN[:-1]}")
    assert read_marks(str(tmp_path / "nowhere")) is None


@pytest.mark.quick
def test_numbers_go_on_after_those_that_are_taken() -> None:
    assert Redactor({"B_TOKEN": "bbbb-1111-x"}, ["‹token-3›", "‹private-key-2›"]).text("bbbb-1111-x") == "‹token-4›"


@pytest.mark.quick
def test_thousands_of_secrets_take_no_more_memory_and_stay_apart() -> None:
    redactor = Redactor({})
    for number in range(KNOWN_LIMIT + 500):
        redactor.text(f"GET /x?token=Value{number:05d}")
    assert redactor.known <= KNOWN_LIMIT
    late, other = (redactor.text(f"GET /x?token=Value{number}") for number in (90001, 90002))
    assert "Value" not in late
    assert late != other
    assert late == redactor.text("GET /x?token=Value90001") == redactor.text(late)


def test_a_bundle_from_another_shell_holds_no_secret_of_the_run(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hang = "import os, threading; print('say', os.environ['X_TOKEN'], flush=True); one = threading.Lock(); one.acquire(); one.acquire()"
    options = ("--stall-timeout", "3s", "--interval", "0.1s", "--on-hang", "stop", "--grace", "1s", "--cache", "keep")
    status, _, err = watched.run(sys.executable, "-c", hang, options=options, env=watched.environment(X_TOKEN=TOKEN))
    assert status == 124, err
    monkeypatch.delenv("X_TOKEN", raising=False)
    assert bundle.main([str(watched.directory), "--output"]) == 0
    path = capsys.readouterr().out.strip()
    with tarfile.open(path) as archive:
        texts = {}
        for member in archive.getmembers():
            stream = archive.extractfile(member)
            assert stream is not None
            texts[os.path.basename(member.name)] = stream.read().decode("utf-8", "replace")
    assert texts["output.log"].startswith("say ‹token-1›\n")
    assert not [name for name, text in texts.items() if TOKEN in text]
    assert NAME not in texts
