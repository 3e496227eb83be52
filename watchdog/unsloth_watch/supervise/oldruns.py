"""Old runs deleted where a person asks for it: never one that may run, and never the newest ones.

Nothing prunes by itself: what a run left is evidence, and only its owner knows when it is no longer wanted.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

import msgspec

from unsloth_watch.act.change import MendError
from unsloth_watch.act.quarantine import read_manifest
from unsloth_watch.capture.cacheentry import measure
from unsloth_watch.errors import WatchError
from unsloth_watch.supervise.request import NotRunningError, ask
from unsloth_watch.tell.runs import KnownRun, list_runs

_ASIDE = ".pruned-"
"""Beginning of the name of a run that is being deleted: what is left of one is no run any more, and goes at the next pruning."""
_RECORDS = ("run.json", "events.jsonl", "samples.jsonl", "output.log")
_SETTLED_S = 3600.0
"""Seconds without a record after which a run without an outcome, whose supervisor does not answer, is over: one that lives writes a
sample every few seconds, unless its disk is full or gone."""


class PrunedRun(msgspec.Struct, frozen=True):
    """What became of one run.

    Attributes:
        id: The run.
        directory: Its directory.
        action: ``deleted``, ``would delete`` or ``kept``.
        why: The reason.
        size_bytes: What its files take on the disk; 0 where it was not measured, as it stays.
    """

    id: str
    directory: str
    action: str
    why: str
    size_bytes: int = 0


def prune_runs(base: str, *, older_than_s: float, keep: int, is_dry: bool, now: float) -> tuple[PrunedRun, ...]:
    """Delete the runs below a directory that are old, and say what became of each old one; younger ones are not told of.

    Only directories that the program itself named are touched, and only while nothing of the job is left that writes into them.

    Args:
        base: Directory of all runs.
        older_than_s: Seconds since the last record of a run.
        keep: So many of the newest runs stay, and so many of the newest with an incident, however old.
        is_dry: Whether it is only said what would be deleted.
        now: Unix seconds.
    """
    if not is_dry:
        _finish_earlier(base)
    runs = [run for run in list_runs(base) if run.name != run.record.id and os.path.basename(run.directory) == run.record.id]
    found = []
    for run in choose(runs, {run.record.id: now - _read_last_use(run.directory) for run in runs}, older_than_s, keep):
        why = explain_need(run, now)
        if why is not None:
            found.append(PrunedRun(run.record.id, run.directory, "kept", why))
            continue
        size_bytes = measure(run.directory).size_bytes
        why = f"older than {older_than_s / 86400:g} d"
        try:
            if not is_dry:
                _delete(run.directory)
            action = "would delete" if is_dry else "deleted"
        except OSError as error:
            action, why = "kept", f"{error.strerror or error}: {error.filename or run.directory}"
        found.append(PrunedRun(run.record.id, run.directory, action, why, size_bytes))
    return tuple(found)


def choose(runs: Sequence[KnownRun], ages: dict[str, float], older_than_s: float, keep: int) -> tuple[KnownRun, ...]:
    """Return the runs that are old and not among the newest.

    Args:
        runs: Newest first.
        ages: Seconds since the last record, by id.
        older_than_s: From when on a run is old.
        keep: So many of the newest stay, and so many of the newest with an incident.
    """
    with_incident = [run for run in runs if run.record.incidents]
    staying = {run.record.id for run in (*runs[:keep], *with_incident[:keep])}
    return tuple(run for run in runs if run.record.id not in staying and ages[run.record.id] > older_than_s)


def explain_need(run: KnownRun, now: float) -> str | None:
    """Return why a run may still be needed, None where it surely is not.

    Args:
        run: The run.
        now: Unix seconds.
    """
    if os.path.islink(run.directory):  # noqa: PTH114 - os.path, as everywhere here
        return "it is a link to somewhere else"
    why = _explain_life(run.directory, now) if run.record.outcome is None else None
    if why is None and any(_is_of_run(attempt.pid, run.directory) for attempt in run.record.attempts):
        return "a process of its job lives"
    return why or _explain_quarantine(os.path.join(run.directory, "quarantine"))


def _explain_life(directory: str, now: float) -> str | None:
    """Return why a run without an outcome may be running."""
    try:
        ask(directory, "show")
    except NotRunningError:
        is_settled = now - _read_last_use(directory) >= _SETTLED_S
        return None if is_settled else "it has no outcome, and was written to within the last hour"
    except WatchError as error:  # it refuses or is stopped: it is there
        return str(error)
    return "it is running"


def _explain_quarantine(path: str) -> str | None:
    """Return why what a run moved aside has to stay."""
    try:
        is_empty = not any(os.path.lexists(os.path.join(path, entry.kept)) for entry in read_manifest(path))
    except (MendError, OSError) as error:
        return str(error)
    return None if is_empty else "what it moved aside is in it; see unsloth-watch cache list"


def _is_of_run(pid: int | None, directory: str) -> bool:
    """Whether the process under a PID was started for this run; one that cannot be read is somebody else's."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as stream:
            return f"UNSLOTH_WATCH_RUN_DIR={directory}".encode() in stream.read().split(b"\0")
    except OSError:
        return False


def _read_last_use(directory: str) -> float:
    """Return when a run was last written to, Unix seconds; now and for ever where that cannot be read."""
    times = []
    for name in _RECORDS:
        try:
            times.append(os.lstat(os.path.join(directory, name)).st_mtime)
        except FileNotFoundError:
            continue
        except OSError:
            return float("inf")
    return max(times, default=float("inf"))


def _delete(directory: str) -> None:
    """Delete a run: out of sight in one step, so that a run that is half deleted is never found.

    Raises:
        OSError: Something of it cannot be deleted.
    """
    aside = os.path.join(os.path.dirname(directory), _ASIDE + os.path.basename(directory))
    os.rename(directory, aside)
    shutil.rmtree(aside)


def _finish_earlier(base: str) -> None:
    """Delete what an earlier pruning left that was interrupted."""
    try:
        left = [entry.path for entry in os.scandir(base) if entry.name.startswith(_ASIDE) and entry.is_dir(follow_symlinks=False)]
    except OSError:  # there is no such directory
        return
    for path in left:
        shutil.rmtree(path, ignore_errors=True)  # what cannot be deleted is there at the next time, too
