"""Earlier incidents with the same fingerprint, from the records of earlier runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import msgspec

from unsloth_watch.tell.incident import Previous
from unsloth_watch.tell.records import IncidentRecord, RunRecord, read_run

MOST_RUNS = 200
"""Newest runs that are asked, per directory; a summary is a few kB and read in 0.1 ms."""
MOST_FOUND = 10


def find_previous(fingerprint: str, bases: Iterable[str], own_id: str) -> tuple[Previous, ...]:
    """Return the incidents of other runs with a fingerprint, newest first; records that cannot be read are passed over.

    Args:
        fingerprint: Of the incident at hand.
        bases: Directories that hold run directories.
        own_id: Id of the run at hand, which is left out.
    """
    found = [
        Previous(record.id, one.number, record.started, one.cause, _tell_outcome(record, one), os.path.join(path, one.path))
        for base in dict.fromkeys(bases)
        for path, record in _read_runs(base)
        if record.id != own_id
        for one in record.incidents
        if one.fingerprint == fingerprint
    ]
    return tuple(sorted(found, key=lambda one: one.at, reverse=True)[:MOST_FOUND])


def _read_runs(base: str) -> Iterator[tuple[str, RunRecord]]:
    try:
        with os.scandir(base) as entries:
            places = sorted(((entry.stat().st_mtime, entry.path) for entry in entries if entry.is_dir()), reverse=True)
    except OSError:
        return
    for _, path in places[:MOST_RUNS]:
        try:
            yield path, read_run(os.path.join(path, "run.json"))
        except (OSError, msgspec.DecodeError):
            continue


def _tell_outcome(record: RunRecord, incident: IncidentRecord) -> str:
    helped = [remedy.id for remedy in incident.remedies if remedy.worked]
    if helped:
        return f"mended by {', '.join(helped)}"
    return f"the run ended {record.outcome}" if record.outcome else "the run was not ended properly"
