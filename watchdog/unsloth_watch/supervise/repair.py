"""``cache repair``: moves what is broken into quarantine, to be built anew. Nothing is deleted, nothing in use is touched."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence

import msgspec

from unsloth_watch.act.change import Change, MendError
from unsloth_watch.act.discard import check_top
from unsloth_watch.act.orphanlock import release
from unsloth_watch.act.quarantine import quarantine
from unsloth_watch.capture.cacheentry import Entry, measure
from unsloth_watch.capture.halfwritten import find_half_written
from unsloth_watch.capture.lockfiles import describe_lock_files, find_lock_files, list_directories
from unsloth_watch.supervise.cachestock import Doubt, Stock, explain_use

_YOUNG_S = 3600.0
"""A file that looks half-written and is younger may be written at this moment by a process that opens it again and again."""


class Repaired(msgspec.Struct, frozen=True):
    """What was done.

    Attributes:
        changes: What was moved aside, with its undo.
        kept: What looked broken and was left alone, and why.
    """

    changes: tuple[Change, ...]
    kept: tuple[str, ...]


def repair_broken(stocks: Iterable[Stock], quarantine_dir: str, now: float) -> Repaired:
    """Move aside what is provably broken: lock files without an owner, half-written files, and a file where a directory belongs.

    Args:
        stocks: Caches.
        quarantine_dir: Where it goes.
        now: Unix seconds.
    """
    changes: list[Change] = []
    kept: list[str] = []
    for stock in stocks:
        _attempt(lambda: _repair_place(stock, quarantine_dir), changes, kept)  # noqa: B023 - called at once
        if not os.path.isdir(stock.path) or stock.kind.id in {"project", "private"}:
            continue
        try:
            top = check_top(stock.path)
        except MendError as error:
            kept.append(str(error))
            continue
        _repair_locks(stock, quarantine_dir, changes, kept)
        if stock.kind.rebuilds:
            _repair_files(stock, top, quarantine_dir, now, changes=changes, kept=kept)
    return Repaired(tuple(changes), tuple(kept))


def repair_whole(stock: Stock, quarantine_dir: str) -> Change:
    """Move a whole cache aside and make an empty one in its place.

    Raises:
        MendError: It is in use, or it is no cache.
        OSError: It cannot be moved.
    """
    top = check_top(stock.path, (os.getcwd(),))
    use = explain_use(stock, Entry(top, measure(top)), Doubt())
    if use is not None:
        raise MendError(f"{top} stays: {use}")
    mode = os.stat(top).st_mode & 0o7777
    try:
        change = quarantine(top, quarantine_dir)
    except OSError as error:
        raise MendError(f"{top} stays: {_name_reason(error)}") from error
    # A job or a second supervisor may have made it anew in between; what was moved has to be told all the same.
    os.makedirs(top, exist_ok=True)
    os.chmod(top, mode)
    return change


def _repair_place(stock: Stock, quarantine_dir: str) -> Sequence[Change]:
    if not os.path.lexists(stock.path) or os.path.isdir(stock.path):
        return ()
    if os.path.islink(stock.path):  # noqa: PTH114 - os.path, as everywhere here
        raise MendError(f"{stock.path} stays: it is a link that leads nowhere; mount what it leads to, or remove it")
    change = quarantine(stock.path, quarantine_dir)
    os.makedirs(stock.path, mode=0o700, exist_ok=True)
    return (change,)


def move_lock_aside(path: str, quarantine_dir: str) -> Change:
    """Move a lock file without an owner into quarantine.

    Raises:
        MendError: It may have an owner.
        OSError: It cannot be moved.
    """
    for file in describe_lock_files([path]):
        # Torch's FileBaton keeps it open for reading only while it builds, so nobody at all may have it open.
        if file.openers != ():
            who = f"PID {', '.join(map(str, file.openers))} has" if file.openers else "a process that cannot be asked may have"
            raise MendError(f"{path} stays: {who} it open")
    return release(path, quarantine_dir)


def _repair_locks(stock: Stock, quarantine_dir: str, changes: list[Change], kept: list[str]) -> None:
    for path in find_lock_files(list_directories(stock.path, stock.kind.lock_depth), stock.kind.lock_names):
        _attempt(lambda: (move_lock_aside(path, quarantine_dir),), changes, kept)  # noqa: B023 - called at once


def _repair_files(stock: Stock, top: str, quarantine_dir: str, now: float, *, changes: list[Change], kept: list[str]) -> None:
    found = find_half_written(top)
    doubt = Doubt() if found else None
    for path in found:
        extent = measure(path)
        if doubt is None or now - extent.last_use < _YOUNG_S:
            kept.append(f"{path} stays: it is younger than an hour, so it may be being written")
            continue
        use = explain_use(stock, Entry(path, extent), doubt)
        if use is not None:
            kept.append(f"{path} stays: {use}")
        else:
            _attempt(lambda: (quarantine(path, quarantine_dir),), changes, kept)  # noqa: B023 - called at once


def _attempt(work: Callable[[], Sequence[Change]], changes: list[Change], kept: list[str]) -> None:
    try:
        changes += work()
    except (MendError, OSError) as error:
        kept.append(str(error) if isinstance(error, MendError) else f"{error.filename or ''}: {_name_reason(error)}")


def _name_reason(error: OSError) -> str:
    """Return why a move failed; a copy that failed in several places tells the first."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        return str(error.args[0][0][-1]).partition("] ")[2].partition(":")[0] or str(error.args[0][0][-1])
    return error.strerror or str(error)
