"""``unsloth-watch cache list|prune|repair``: what the caches hold, and how they are kept small and whole."""

from __future__ import annotations

import argparse
import os
import pwd
import sys
from collections.abc import Iterator, Sequence

import msgspec

from unsloth_watch.act.change import Change, MendError
from unsloth_watch.capture.cacheentry import measure
from unsloth_watch.cli.arguments import Parser
from unsloth_watch.cli.words import parse_age
from unsloth_watch.config.size import parse_size
from unsloth_watch.errors import EXIT_USAGE, UsageError, WatchError
from unsloth_watch.supervise import clock
from unsloth_watch.supervise.cachestock import Doubt, Stock, find_stocks
from unsloth_watch.supervise.prune import INCLUDABLE, Outcome, format_age, prune
from unsloth_watch.supervise.quarantines import close_quarantine, list_quarantines, open_quarantine, restore_quarantine
from unsloth_watch.supervise.repair import Repaired, repair_broken, repair_whole
from unsloth_watch.tell.console import clean_line
from unsloth_watch.tell.lines import encode_line
from unsloth_watch.tell.quantity import format_quantity

SCHEMA = "unsloth-watch/caches/1"


def main(words: Sequence[str]) -> int:
    """Run the verb; return 0, or 1 where something that was asked for could not be done."""
    options = _parser().parse_args(words)
    work = {"list": _list, "prune": _prune, "repair": _repair}[options.action]
    try:
        return work(options)
    except (MendError, OSError) as error:
        sys.stderr.write(f"unsloth-watch: {error}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "cache",
        "Shows, prunes and repairs the caches that a job started here would use, and those made by this program.",
        "unsloth-watch cache prune --older-than 30d --max-size 20G --dry-run",
        status="0 done, 1 something that was asked for could not be done",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|prune|repair")
    listing = actions.add_parser(
        "list",
        help="size, owner, last use and locks of every cache",
        description="Lists the caches with size, owner, last use, locks and place, and the quarantines.",
        example="unsloth-watch cache list --json",
    )
    pruning = actions.add_parser(
        "prune",
        help="delete entries that nobody uses",
        description="Deletes entries that nobody uses: those that are too old, then the least recently used until the rest fits. "
        "One of the two limits is enough.",
        example="unsloth-watch cache prune --older-than 30d --include hub --dry-run",
    )
    pruning.add_argument("--older-than", type=parse_age, metavar="DURATION", help="entries not used for so long, such as 30d")
    pruning.add_argument(
        "--max-size", type=_size, metavar="SIZE", help="then the least recently used until the rest fits, such as 20G"
    )
    pruning.add_argument(
        "--include", action="append", default=[], choices=sorted(INCLUDABLE), help="a cache that would have to be downloaded again"
    )
    pruning.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    mending = actions.add_parser(
        "repair",
        help="move what is broken, or a whole cache, into quarantine",
        description="Moves into quarantine what is provably broken, or the caches that are named as a whole.",
        example="unsloth-watch cache repair triton",
    )
    mending.add_argument("cache", nargs="*", metavar="CACHE", help="caches to build anew as a whole, as `cache list` names them")
    mending.add_argument("--restore", metavar="ID", help="bring a quarantine back; `cache list` shows them")
    for one in (listing, pruning, mending):
        one.add_argument("--json", action="store_true", help="answer with data")
    return parser


def _size(word: str) -> int:
    try:
        return parse_size(word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _stocks() -> tuple[Stock, ...]:
    return find_stocks(os.environ, os.getcwd())


def _list(options: argparse.Namespace) -> int:
    now, doubt = clock.wall(), Doubt()
    rows = []
    for stock in _stocks():
        if not os.path.lexists(stock.path):
            continue
        extent = measure(os.path.realpath(stock.path))
        locks = None if doubt.locked is None else sum(inode in doubt.locked for _, inode in extent.inodes)
        rows.append(
            {
                "cache": stock.kind.id,
                "path": stock.path,
                "origin": stock.origin,
                "size_bytes": extent.size_bytes,
                "files": extent.files,
                "last_use": extent.last_use or None,
                "owners": [_name(uid) for uid in sorted(extent.owners)],
                "locks_held": locks,
                "entries": len(stock.entries),
                "is_complete": extent.is_complete,
                "note": stock.kind.note,
            }
        )
    quarantines = list_quarantines(os.environ)
    if options.json:
        _write({"schema": SCHEMA, "caches": rows, "quarantines": quarantines})
    else:
        _say(_table(rows, now))
        for one in quarantines:
            back = f"{', '.join(one.originals)}; back with unsloth-watch cache repair --restore {one.id}"
            _say((f"quarantine {one.id}: {one.fault or back}",))
    return 1 if any(one.fault for one in quarantines) else 0


def _table(rows: Sequence[dict[str, object]], now: float) -> Iterator[str]:
    if not rows:
        yield "there is no cache yet for this user and directory"
        return
    head = ("CACHE", "SIZE", "FILES", "LAST USE", "OWNER", "LOCKS", "PLACE")
    lines = [head]
    for row in rows:
        last, size = row["last_use"], row["size_bytes"]
        assert isinstance(size, int)
        age = f"{format_age(now - last)} ago" if isinstance(last, float) else "-"
        owners = row["owners"]
        assert isinstance(owners, list)
        locks = "?" if row["locks_held"] is None else str(row["locks_held"])
        more = "" if row["is_complete"] else "+"
        place = f"{row['path']} ({row['origin']})"
        lines.append((str(row["cache"]), format_quantity(size, "B") + more, str(row["files"]), age, ",".join(owners), locks, place))
    widths = [max(len(line[column]) for line in lines) for column in range(len(head) - 1)]
    for line in lines:
        yield "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]])


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _prune(options: argparse.Namespace) -> int:
    if options.older_than is None and options.max_size is None:
        sys.stderr.write("unsloth-watch: say what to prune: --older-than 30d, --max-size 20G, or both\n")
        return EXIT_USAGE
    outcome = prune(
        _stocks(),
        older_than_s=options.older_than,
        max_bytes=options.max_size,
        include=[INCLUDABLE[name] for name in options.include],
        now=clock.wall(),
        is_dry=options.dry_run,
        keep=(os.getcwd(),),
    )
    if options.json:
        _write({"schema": SCHEMA, "pruned": outcome})
    else:
        _say(_prune_lines(outcome, is_dry=options.dry_run))
    is_stuck = bool(outcome.refused) or (
        options.max_size is not None and outcome.size_bytes - outcome.freed_bytes > options.max_size
    )
    return 1 if is_stuck else 0


def _prune_lines(outcome: Outcome, *, is_dry: bool) -> Iterator[str]:
    yield from outcome.refused
    for one in outcome.entries:
        yield f"{one.action}: {one.cache} {one.name} ({format_quantity(one.size_bytes, 'B')}): {one.why}"
    rest = outcome.size_bytes - outcome.freed_bytes
    verb = "would be freed" if is_dry else "freed"
    yield f"{format_quantity(outcome.freed_bytes, 'B')} {verb}, {format_quantity(rest, 'B')} of what may be pruned stays"


def _repair(options: argparse.Namespace) -> int:
    if options.restore and options.cache:
        raise UsageError("--restore brings a whole quarantine back; give it, or caches to build anew, not both")
    if options.restore is not None:
        restored, moved = restore_quarantine(options.restore, os.environ)
        if options.json:
            return _write({"schema": SCHEMA, "restored": restored, "changes": moved})
        _say([*(f"restored {path}" for path in restored), *map(_change_line, moved)])
        return 0
    stocks = _stocks()
    chosen = [stock for stock in stocks if stock.kind.id in options.cache]
    unknown = sorted(set(options.cache) - {stock.kind.id for stock in stocks if stock.kind.rebuilds})
    if unknown:
        known = ", ".join(stock.kind.id for stock in stocks if stock.kind.rebuilds)
        raise UsageError(f"{', '.join(unknown)}: no cache that can be built anew; those are {known}")
    place = open_quarantine(os.environ)
    try:
        done = _repair_chosen(chosen, place) if options.cache else repair_broken(stocks, place, clock.wall())
    finally:
        close_quarantine(place)
    if options.json:
        _write({"schema": SCHEMA, "changes": done.changes, "kept": done.kept, "quarantine": os.path.basename(place)})
    else:
        _say([*map(_change_line, done.changes), *done.kept])
        back = f"everything comes back with unsloth-watch cache repair --restore {os.path.basename(place)}"
        _say([back if done.changes else "nothing was changed"])
    return 1 if done.kept else 0


def _repair_chosen(chosen: Sequence[Stock], place: str) -> Repaired:
    changes: list[Change] = []
    kept: list[str] = []
    for stock in chosen:
        try:
            changes.append(repair_whole(stock, place))
        except (WatchError, OSError) as error:
            kept.append(str(error))
    return Repaired(tuple(changes), tuple(kept))


def _change_line(change: Change) -> str:
    return f"moved {change.target} to {change.after}; undo: {change.undo}"


def _say(lines: Sequence[str] | Iterator[str]) -> None:
    sys.stdout.write("".join(clean_line(line) + "\n" for line in lines))


def _write(value: object) -> int:
    sys.stdout.buffer.write(msgspec.json.format(encode_line(value), indent=2) + b"\n")
    return 0
