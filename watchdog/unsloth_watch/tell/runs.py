"""The runs of this user: listed from their directories, and one of them found by what a person calls it."""

from __future__ import annotations

import os
import re

import msgspec

from unsloth_watch.errors import CannotLookError
from unsloth_watch.tell.directory import clean_name
from unsloth_watch.tell.records import RunRecord, read_run

LATEST = "latest"
_ID = re.compile(r"\d{8}T\d{6}Z-(?P<name>.+)-[0-9a-f]{4}")


class NoSuchRunError(CannotLookError):
    """No run, or more than one, is meant by a word."""


class KnownRun(msgspec.Struct, frozen=True):
    """A run and where it is.

    Attributes:
        directory: Its run directory.
        record: Its ``run.json``.
    """

    directory: str
    record: RunRecord

    @property
    def name(self) -> str:
        """What the user or the command called it."""
        match = _ID.fullmatch(self.record.id)
        return match["name"] if match else self.record.id


def list_runs(base: str) -> list[KnownRun]:
    """Return all runs below a directory, newest first; what is no run, or unreadable, is left out.

    Args:
        base: Directory of all runs; one that does not exist holds none.
    """
    try:
        names = os.listdir(base)
    except OSError:
        return []
    found = [run for name in names if (run := _read(os.path.join(base, name))) is not None]
    return sorted(found, key=lambda run: (run.record.started, run.record.id), reverse=True)


def find_run(word: str, base: str) -> KnownRun:
    """Return the run that a word means.

    Args:
        word: ``latest``, a directory, an id, the beginning of one, or a name, of which the newest run is taken.
        base: Directory of all runs.

    Raises:
        NoSuchRunError: There is none, or the word begins several ids.
    """
    if os.path.lexists(os.path.join(word, "run.json")):
        run = _read(os.path.abspath(word))
        if run is None:
            raise NoSuchRunError(f"{os.path.join(word, 'run.json')} cannot be read, or is of another version")
        return run
    runs = list_runs(base)
    if not runs:
        raise NoSuchRunError(f"there are no runs in {base}; name a run's directory, or another place with --runs-dir")
    if word == LATEST:
        return runs[0]
    exact = [run for run in runs if run.record.id == word] or [run for run in runs if run.name == clean_name(word)]
    if exact:
        return exact[0]
    begun = [run for run in runs if word and run.record.id.startswith(word)]
    if len(begun) > 1:
        raise NoSuchRunError(
            f"{word!r} begins {len(begun)} runs: {', '.join(run.record.id for run in begun[:5])}; write more of it"
        )
    if not begun:
        raise NoSuchRunError(f"there is no run {word!r} in {base}; see unsloth-watch runs")
    return begun[0]


def _read(directory: str) -> KnownRun | None:
    try:
        return KnownRun(directory, read_run(os.path.join(directory, "run.json")))
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
