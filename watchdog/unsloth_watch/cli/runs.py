"""``unsloth-watch runs``: the runs of this user, newest first."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from unsloth_watch.cli.arguments import Parser
from unsloth_watch.cli.order import write_json
from unsloth_watch.cli.show import describe_end, read_live
from unsloth_watch.errors import WatchError
from unsloth_watch.model.live import LiveState
from unsloth_watch.tell.console import clean_line
from unsloth_watch.tell.runs import KnownRun, list_runs

SCHEMA = "unsloth-watch/runs/1"
_SHOWN = 20


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    parser = Parser("runs", "Lists the runs of this user, newest first.", "unsloth-watch runs --json")
    parser.add_runs_dir()
    parser.add_argument("--all", action="store_true", help=f"all of them, not only the newest {_SHOWN}")
    parser.add_json()
    options = parser.parse_args(words)
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
