"""``unsloth-watch runs``: the runs of this user, newest first; ``--prune`` deletes old ones."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from unsloth_watch.cli.arguments import Parser
from unsloth_watch.cli.order import write_json
from unsloth_watch.cli.show import describe_end, read_live
from unsloth_watch.cli.words import parse_age, parse_count
from unsloth_watch.errors import WatchError
from unsloth_watch.model.live import LiveState
from unsloth_watch.supervise import clock
from unsloth_watch.tell.console import clean_line
from unsloth_watch.tell.runs import KnownRun, list_runs

SCHEMA = "unsloth-watch/runs/1"
PRUNE_SCHEMA = "unsloth-watch/runs-prune/1"
_SHOWN = 20
_OLD_S = 30 * 86400.0
_KEPT = 10


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    parser = Parser(
        "runs",
        "Lists the runs of this user, newest first; with --prune it deletes old ones.",
        "unsloth-watch runs --prune --older-than 30d --dry-run",
    )
    parser.add_runs_dir()
    parser.add_argument("--all", action="store_true", help=f"all of them, not only the newest {_SHOWN}")
    parser.add_json()
    pruning = parser.add_argument_group("with --prune")
    parser.add_argument("--prune", action="store_true", help="delete old runs: never one that may run, nor the newest")
    pruning.add_argument(
        "--older-than", type=parse_age, metavar="DURATION", help=f"runs without a record for so long (default {_OLD_S / 86400:g}d)"
    )
    pruning.add_argument(
        "--keep", type=parse_count, metavar="N", help=f"so many of the newest stay, and so many with an incident (default {_KEPT})"
    )
    pruning.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    options = parser.parse_args(words)
    if options.prune:
        return _prune(options)
    if options.older_than is not None or options.keep is not None or options.dry_run:
        parser.error("--older-than, --keep and --dry-run say what --prune deletes")
    runs = list_runs(options.runs_dir)
    shown = runs if options.all else runs[:_SHOWN]
    found = [(run, *_look(run)) for run in shown]
    if options.json:
        rows = [{"directory": run.directory, "live": live, "run": run.record} for run, live, _ in found]
        write_json({"schema": SCHEMA, "runs": rows})
        return 0
    for run, _, words_of_it in found:
        sys.stdout.write(clean_line(f"{run.record.id}  {words_of_it}  {shlex.join(run.record.command)}") + "\n")
    if len(runs) > len(shown):
        sys.stdout.write(f"and {len(runs) - len(shown)} older; see them with --all\n")
    if not runs:
        sys.stderr.write(f"unsloth-watch: no runs in {options.runs_dir}\n")
    return 0


def _look(run: KnownRun) -> tuple[LiveState | None, str]:
    """Return how a run stands; one whose supervisor does not answer must not hide the others."""
    try:
        live = read_live(run)
    except WatchError as error:
        return None, str(error)
    return live, describe_end(run, live)


def _prune(options: argparse.Namespace) -> int:
    from unsloth_watch.supervise.oldruns import prune_runs  # noqa: PLC0415 - not for a list

    older_than_s = _OLD_S if options.older_than is None else options.older_than
    keep = _KEPT if options.keep is None else options.keep
    found = prune_runs(options.runs_dir, older_than_s=older_than_s, keep=keep, is_dry=options.dry_run, now=clock.wall())
    gone = [one for one in found if one.action != "kept"]
    size_bytes = sum(one.size_bytes for one in gone)
    if options.json:
        write_json({"schema": PRUNE_SCHEMA, "is_dry": options.dry_run, "size_bytes": size_bytes, "runs": found})
        return 0
    for one in found:
        sys.stdout.write(clean_line(f"{one.id}  {one.action}: {one.why}") + "\n")
    verb = "would be deleted" if options.dry_run else "deleted"
    sys.stdout.write(f"{len(gone)} run{'s' if len(gone) != 1 else ''} {verb}, {size_bytes / 1e6:.1f} MB\n")
    return 0
