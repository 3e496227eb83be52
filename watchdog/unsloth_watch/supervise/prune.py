"""Pruning: which entries go, by age and by size, and how they go without harm to whoever uses them."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

import msgspec

from unsloth_watch.act.change import MendError
from unsloth_watch.act.discard import Discard, check_top
from unsloth_watch.act.isolation import MARKER
from unsloth_watch.capture.cacheentry import ASIDE, Entry
from unsloth_watch.capture.hubcache import is_still_alone
from unsloth_watch.supervise.cachestock import Doubt, Stock, explain_use

INCLUDABLE = {"hub": "hf-hub", "datasets": "datasets", "xet": "hf-xet"}
"""Caches that have to be downloaded or processed again: only pruned where they are named."""

_BATCH = 200
"""Entries set aside at once: each holds a descriptor, and a crash leaves at most so many aside."""


class Pruned(msgspec.Struct, frozen=True):
    """What became of one entry.

    Attributes:
        cache: Its cache.
        path: Where it is or was.
        name: What people call it.
        size_bytes: Its space.
        last_use: Unix seconds.
        action: ``deleted``, ``would delete`` or ``kept``.
        why: Why it was to go, or why it was kept.
    """

    cache: str
    path: str
    name: str
    size_bytes: int
    last_use: float
    action: str
    why: str


class Outcome(msgspec.Struct, frozen=True):
    """All of a pruning.

    Attributes:
        entries: What was to go, and what became of it.
        refused: Caches that were left alone altogether, and why.
        size_bytes: Space of all entries looked at, before.
        freed_bytes: Space that was freed, or would be.
    """

    entries: tuple[Pruned, ...]
    refused: tuple[str, ...]
    size_bytes: int
    freed_bytes: int


def prune(
    stocks: Sequence[Stock],
    *,
    older_than_s: float | None,
    max_bytes: int | None,
    include: Collection[str],
    now: float,
    is_dry: bool,
    keep: Sequence[str] = (),
) -> Outcome:
    """Delete entries that nobody uses: all that are older, then the least recently used until the rest fits.

    Args:
        stocks: Caches.
        older_than_s: Seconds since the last use; None for no such rule.
        max_bytes: Space that all entries together may take; None for no such rule.
        include: Ids of caches that do not come back by themselves and are to be pruned nevertheless.
        now: Unix seconds.
        is_dry: Whether only to say what would be done.
        keep: Directories that are no cache, such as the working directory.
    """
    candidates, refused = _gather(stocks, include, keep)
    chosen = choose([entry for _, entry in candidates], older_than_s, max_bytes, now)
    going = [(stock, entry, chosen[entry.path]) for stock, entry in candidates if entry.path in chosen]
    results: list[Pruned] = []
    for start in range(0, len(going), _BATCH):
        results += _remove(going[start : start + _BATCH], keep, is_dry=is_dry)
    gone = ("deleted", "would delete")
    freed = sum(result.size_bytes for result in results if result.action in gone)
    return Outcome(tuple(results), tuple(refused), sum(entry.extent.size_bytes for _, entry in candidates), freed)


def _remove(going: Sequence[tuple[Stock, Entry, str]], keep: Sequence[str], *, is_dry: bool) -> list[Pruned]:
    """Set entries aside, ask again who uses them, and delete them."""
    doubt = Doubt()
    results: list[Pruned] = []
    aside: list[tuple[Stock, Entry, str, Discard]] = []
    for stock, entry, why in going:
        use = explain_use(stock, entry, doubt)
        if use is not None:
            results.append(_tell(stock, entry, "kept", use))
        elif is_dry:
            results.append(_tell(stock, entry, "would delete", why))
        else:
            try:
                top = check_top(stock.path, keep)
                marker = MARKER if stock.kind.id == "project" else ""
                aside.append((stock, entry, why, Discard(entry.path, top, (*entry.blobs, *entry.links), marker)))
            except (MendError, OSError) as error:
                results.append(_tell(stock, entry, "kept", str(error)))
    return results + _finish(aside)


def choose(entries: Sequence[Entry], older_than_s: float | None, max_bytes: int | None, now: float) -> dict[str, str]:
    """Return the entries that are to go, by path, with the reason; the least recently used first."""
    chosen: dict[str, str] = {}
    rest = sum(entry.extent.size_bytes for entry in entries)
    for entry in sorted(entries, key=lambda entry: entry.extent.last_use):
        age_s = now - entry.extent.last_use
        if os.path.basename(entry.path).startswith(ASIDE):
            chosen[entry.path] = "left over from an earlier pruning"
        elif older_than_s is not None and age_s > older_than_s:
            chosen[entry.path] = f"not used for {format_age(age_s)}"
        elif max_bytes is not None and rest > max_bytes:
            chosen[entry.path] = "least recently used, and all together are too large"
        else:
            continue
        rest -= entry.extent.size_bytes
    return chosen


def format_age(seconds: float) -> str:
    """Return a time span in its largest unit: ``40 d``, ``3 h``."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _gather(stocks: Sequence[Stock], include: Collection[str], keep: Sequence[str]) -> tuple[list[tuple[Stock, Entry]], list[str]]:
    found: list[tuple[Stock, Entry]] = []
    refused: list[str] = []
    seen: set[str] = set()
    for stock in stocks:
        if not os.path.isdir(stock.path) or not (stock.kind.rebuilds or stock.kind.id in include):
            continue
        try:
            check_top(stock.path, keep)
        except MendError as error:
            refused.append(str(error))
            continue
        for entry in stock.entries:
            if entry.path not in seen:
                seen.add(entry.path)
                found.append((stock, entry))
    return found, refused


def _finish(aside: list[tuple[Stock, Entry, str, Discard]]) -> list[Pruned]:
    """Look once more who uses what was set aside, and delete or put back."""
    if not aside:
        return []
    doubt = Doubt()
    results = []
    for stock, entry, why, discard in aside:
        try:
            use = explain_use(stock, entry, doubt, name=discard.aside, has_marker=stock.kind.id == "project")
            if use is None and not is_still_alone(entry):
                use = "another revision needs its files now"
        except OSError as error:  # what cannot be asked is in use
            use = f"who uses it could not be found out: {error}"
        try:
            if use is not None:
                discard.put_back()
                results.append(_tell(stock, entry, "kept", use))
            else:
                discard.finish()
                results.append(_tell(stock, entry, "deleted", why))
        except MendError as error:
            results.append(_tell(stock, entry, "kept", str(error)))
        except OSError as error:
            results.append(_tell(stock, entry, "kept", f"{error.strerror}: {error.filename or discard.aside}"))
    return results


def _tell(stock: Stock, entry: Entry, action: str, why: str) -> Pruned:
    name = entry.name or os.path.relpath(entry.path, os.path.realpath(stock.path))
    return Pruned(stock.kind.id, entry.path, name, entry.extent.size_bytes, entry.extent.last_use, action, why)
