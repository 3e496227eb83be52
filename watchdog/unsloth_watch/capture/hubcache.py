"""The layout of the Hugging Face hub cache: repositories, their revisions, and which blobs only one revision needs.

``models--org--name/`` holds ``blobs/<etag>``, ``snapshots/<revision>/…`` (links to blobs) and ``refs/<name>`` (a revision each).
Deleting a revision means its snapshot, the blobs that no other snapshot leads to, and the refs that name it; never a link's target
outside of ``blobs``, and never part of a snapshot.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator

import msgspec

from unsloth_watch.capture.cacheentry import ASIDE, Entry, Extent, measure

_REPOSITORY = re.compile(r"(models|datasets|spaces)--[\w.-]+")
_REVISION = re.compile(r"[0-9a-f]{40}")


def list_hub_entries(top: str) -> tuple[Entry, ...]:
    """Return one entry for each revision; a repository whose only revision it is goes as a whole.

    A repository with anything unexpected in its snapshots is left out: what is not understood is not deleted.
    """
    found: list[Entry] = []
    for repository in _directories(os.path.realpath(top)):
        if _REPOSITORY.fullmatch(os.path.basename(repository)) and os.path.isdir(os.path.join(repository, "snapshots")):
            found += _list_repository(repository)
    return tuple(found)


def is_still_alone(entry: Entry) -> bool:
    """Whether no other snapshot leads to the blobs of an entry now: a download may have found one of them a moment ago."""
    if not entry.blobs:
        return True
    blobs = os.path.dirname(entry.blobs[0])
    needed = [_list_blobs(path, blobs) for path in _directories(os.path.dirname(entry.path)) if not _is_aside(path)]
    return all(one is not None and one.isdisjoint(entry.blobs) for one in needed)


def _is_aside(path: str) -> bool:
    return os.path.basename(path).startswith(ASIDE)


def _list_repository(repository: str) -> Iterator[Entry]:
    snapshots = list(_directories(os.path.join(repository, "snapshots")))
    if not snapshots or not all(_REVISION.fullmatch(os.path.basename(path)) for path in snapshots):
        return
    title = os.path.basename(repository).replace("--", "/")
    guard = os.path.join(os.path.dirname(repository), ".locks", os.path.basename(repository))
    if len(snapshots) == 1:
        extent = measure(repository)
        yield Entry(repository, extent, name=title, guard=guard)
        return
    needs = {path: _list_blobs(path, os.path.join(repository, "blobs")) for path in snapshots}
    if any(blobs is None for blobs in needs.values()):
        return
    refs = list(_read_refs(os.path.join(repository, "refs")))
    for path in snapshots:
        others = {blob for other, blobs in needs.items() if other != path for blob in blobs or ()}
        own = tuple(sorted(blob for blob in needs[path] or () if blob not in others))
        revision = os.path.basename(path)
        links = tuple(ref for ref, named in refs if named == revision)
        # The last use is that of all its blobs: an old revision that shares them with a new one was not used by that.
        extent = _add(measure(path), [measure(blob) for blob in own])
        yield Entry(path, extent, blobs=own, links=links, name=f"{title} @ {revision[:8]}", guard=guard)


def _list_blobs(snapshot: str, blobs: str) -> frozenset[str] | None:
    """Return the blobs that a snapshot's links lead to; None where a link leads elsewhere, or cannot be read."""
    found = set()
    for directory, _, names in os.walk(snapshot, followlinks=False):
        for name in names:
            path = os.path.join(directory, name)
            try:
                is_link = stat.S_ISLNK(os.lstat(path).st_mode)
                target = os.path.normpath(os.path.join(directory, os.readlink(path))) if is_link else ""
            except OSError:  # it was replaced a moment ago: what it leads to now is not known
                return None
            if is_link:
                if os.path.dirname(target) != blobs:
                    return None
                found.add(target)
    return frozenset(found)


def _read_refs(refs: str) -> Iterator[tuple[str, str]]:
    for directory, _, names in os.walk(refs, followlinks=False):
        for name in names:
            path = os.path.join(directory, name)
            try:
                with open(path, encoding="ascii", errors="replace") as file:
                    yield path, file.read(64).strip()
            except OSError:
                continue


def _directories(top: str) -> Iterator[str]:
    try:
        with os.scandir(top) as entries:
            yield from sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return


def _add(first: Extent, others: list[Extent]) -> Extent:
    every = [first, *others]
    return msgspec.structs.replace(
        first,
        size_bytes=sum(one.size_bytes for one in every),
        files=sum(one.files for one in every),
        last_use=max(one.last_use for one in every),
        owners=frozenset().union(*(one.owners for one in every)),
        inodes=frozenset().union(*(one.inodes for one in every)),
        is_complete=all(one.is_complete for one in every),
    )
