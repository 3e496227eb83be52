"""The quarantines of this user: those of runs, of ``doctor`` and of ``cache repair``; what is in them and how it comes back."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping

import msgspec

from unsloth_watch.act.change import Change, MendError
from unsloth_watch.act.quarantine import MANIFEST, quarantine, read_manifest, restore
from unsloth_watch.errors import RunDirectoryError
from unsloth_watch.supervise import clock
from unsloth_watch.tell.directory import clean_name, create_run_directory, find_base, find_temporary_base


class Quarantine(msgspec.Struct, frozen=True):
    """One quarantine.

    Attributes:
        id: What ``--restore`` takes: the run's id, or its own.
        path: Its directory.
        originals: Where the things in it came from.
        fault: Why its manifest cannot be read; it then has to be put back by hand. Empty where it can.
    """

    id: str
    path: str
    originals: tuple[str, ...]
    fault: str = ""


def list_quarantines(environment: Mapping[str, str]) -> tuple[Quarantine, ...]:
    """Return the quarantines that hold something, oldest first."""
    found = []
    for name, path in _find_places(environment):
        if not _is_ours(path):
            continue
        try:
            entries = [entry for entry in read_manifest(path) if os.path.lexists(os.path.join(path, entry.kept))]
        except (MendError, OSError) as error:  # one that is broken must not hide the others
            found.append(Quarantine(name, path, (), str(error)))
            continue
        if entries:
            found.append(Quarantine(name, path, tuple(entry.original for entry in entries)))
    return tuple(found)


def remember_quarantine(path: str, environment: Mapping[str, str]) -> None:
    """Make the quarantine of a run that lies elsewhere (``--run-dir``, ``--runs-dir``) findable, by a link in our own directory.

    Raises:
        OSError: The link cannot be made.
    """
    run = os.path.dirname(path)
    if os.path.dirname(run) in _bases(environment):
        return
    own = _own_base(environment)
    os.makedirs(own, mode=0o700, exist_ok=True)
    # Two directories that are called "run" are two quarantines.
    mark = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
    link = os.path.join(own, f"{clean_name(os.path.basename(run))}-{mark}")
    if not os.path.lexists(link):
        os.symlink(path, link)  # noqa: PTH211 - os, as everywhere here


def open_quarantine(environment: Mapping[str, str]) -> str:
    """Return the path of a fresh quarantine of our own; it is made when something is put into it.

    Raises:
        RunDirectoryError: It cannot be made.
    """
    try:
        return create_run_directory(_own_base(environment), "quarantine", clock.wall).path
    except RunDirectoryError as error:
        raise RunDirectoryError(
            f"nothing can be moved aside: {error.__cause__}; let XDG_STATE_HOME name a writable place"
        ) from None


def close_quarantine(path: str) -> None:
    """Remove a quarantine that nothing was put into."""
    try:
        if not read_manifest(path) and os.path.exists(os.path.join(path, MANIFEST)):
            os.unlink(os.path.join(path, MANIFEST))
        os.rmdir(path)
    except OSError:  # something is in it, or it is gone
        pass


def restore_quarantine(name: str, environment: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[Change, ...]]:
    """Bring everything of a quarantine back to its place.

    An empty directory that took its place is removed; anything else there goes into a quarantine of its own first, so that
    nothing is lost in either direction.

    Returns:
        What was restored, and what was moved aside for it.

    Raises:
        MendError: There is no such quarantine, its manifest cannot be read, or what is in the way may not be moved (its lock is
            held).
        OSError: Something cannot be moved.
    """
    found = next((one for one in list_quarantines(environment) if one.id == name), None)
    if found is None:
        known = ", ".join(one.id for one in list_quarantines(environment)[-5:]) or "none"
        raise MendError(f"there is no quarantine {name}; the newest are: {known}")
    if found.fault:
        raise MendError(f"quarantine {name}: {found.fault}")
    moved: list[Change] = []
    spare: str | None = None
    for original in found.originals:
        if _is_empty_directory(original):
            os.rmdir(original)
        elif os.path.lexists(original):
            spare = spare or open_quarantine(environment)
            moved.append(quarantine(original, spare, keep=(os.getcwd(),)))
    restored = restore(found.path)
    link = os.path.join(_own_base(environment), found.id)
    if os.path.islink(link):  # noqa: PTH114 - os.path, as everywhere here
        if not read_manifest(found.path):
            os.unlink(link)
    elif found.path.startswith(_own_base(environment) + "/"):
        close_quarantine(found.path)
    return restored, tuple(moved)


def _find_places(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield name and directory of everything that may be a quarantine: of the runs, and our own with the links to others."""
    for base in _bases(environment):
        for name in _names(base):
            yield name, os.path.join(base, name, "quarantine")
    own = _own_base(environment)
    for name in _names(own):
        yield name, os.path.realpath(os.path.join(own, name))


def _is_ours(path: str) -> bool:
    """Whether a directory is there and belongs to us: in a place that all may write, somebody else's would say what goes where."""
    try:
        return os.stat(path).st_uid == os.geteuid()
    except OSError:
        return False


def _bases(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the directories where runs lie unless the user says otherwise."""
    return tuple(dict.fromkeys((find_base(environment), find_temporary_base(environment))))


def _own_base(environment: Mapping[str, str]) -> str:
    return os.path.join(os.path.dirname(find_base(environment)), "quarantine")


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _is_empty_directory(path: str) -> bool:
    try:
        return not os.path.islink(path) and not os.listdir(path)  # noqa: PTH114 - os.path, as everywhere here
    except OSError:
        return False
