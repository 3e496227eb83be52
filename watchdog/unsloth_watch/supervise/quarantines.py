"""The quarantines of this user: those of runs, of ``doctor`` and of ``cache repair``; what is in them and how it comes back."""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec

from unsloth_watch.act.change import Change, MendError
from unsloth_watch.act.quarantine import MANIFEST, quarantine, read_manifest, restore
from unsloth_watch.supervise import clock
from unsloth_watch.tell.directory import create_run_directory, find_base


class Quarantine(msgspec.Struct, frozen=True):
    """One quarantine.

    Attributes:
        id: What ``--restore`` takes: the run's id, or its own.
        path: Its directory.
        originals: Where the things in it came from.
    """

    id: str
    path: str
    originals: tuple[str, ...]


def list_quarantines(environment: Mapping[str, str]) -> tuple[Quarantine, ...]:
    """Return the quarantines that hold something, oldest first."""
    base = find_base(environment)
    own = _own_base(environment)
    places = [(name, os.path.join(base, name, "quarantine")) for name in _names(base)]
    places += [(name, os.path.join(own, name)) for name in _names(own)]
    found = []
    for name, path in places:
        if os.path.exists(os.path.join(path, MANIFEST)):
            entries = [entry for entry in read_manifest(path) if os.path.lexists(os.path.join(path, entry.kept))]
            if entries:
                found.append(Quarantine(name, path, tuple(entry.original for entry in entries)))
    return tuple(found)


def open_quarantine(environment: Mapping[str, str]) -> str:
    """Return the path of a fresh quarantine of our own; it is made when something is put into it.

    Raises:
        RunDirectoryError: It cannot be made.
    """
    return create_run_directory(_own_base(environment), "quarantine", clock.wall).path


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
        MendError: There is no such quarantine, or what is in the way may not be moved (its lock is held).
        OSError: Something cannot be moved.
    """
    found = next((one for one in list_quarantines(environment) if one.id == name), None)
    if found is None:
        known = ", ".join(one.id for one in list_quarantines(environment)[-5:]) or "none"
        raise MendError(f"there is no quarantine {name}; the newest are: {known}")
    moved: list[Change] = []
    spare: str | None = None
    for original in found.originals:
        if _is_empty_directory(original):
            os.rmdir(original)
        elif os.path.lexists(original):
            spare = spare or open_quarantine(environment)
            moved.append(quarantine(original, spare, keep=(os.getcwd(),)))
    restored = restore(found.path)
    if found.path.startswith(_own_base(environment) + "/"):
        close_quarantine(found.path)
    return restored, tuple(moved)


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
