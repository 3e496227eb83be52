"""``unsloth-watch stop RUN``: end a run as SIGTERM would, and wait for it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from unsloth_watch.cli.arguments import OF_A_RUN, Parser
from unsloth_watch.cli.order import write_json
from unsloth_watch.supervise.request import NotRunningError, ask
from unsloth_watch.tell.runs import KnownRun, find_run

_LOOK_EVERY_S = 0.1


def main(words: Sequence[str]) -> int:
    """Run the verb; return 0 when the run is over or, with ``--no-wait``, when it was asked to end."""
    parser = Parser(
        "stop",
        "Ends a run: SIGTERM goes to the command, which may save; nothing is started again. Waits until the run is over. A job "
        "that was attached to goes on.",
        "unsloth-watch stop latest",
        status=OF_A_RUN,
    )
    parser.add_run(is_required=True)
    parser.add_argument("--no-wait", action="store_true", help="return as soon as it was asked")
    parser.add_argument(
        "--force", action="store_true", help="end the job all the same: SIGINT, SIGTERM, SIGKILL with the run's grace"
    )
    parser.add_json()
    options = parser.parse_args(words)
    run = find_run(options.run, options.runs_dir)
    ask(run.directory, "stop", **({"force": "yes"} if options.force else {}))
    if not options.no_wait:
        run = _wait_for_end(run)
    if options.json:
        write_json({"id": run.record.id, "outcome": run.record.outcome, "exit_code": run.record.exit_code})
    elif options.no_wait:
        sys.stdout.write(f"{run.record.id}: asked to end\n")
    else:
        sys.stdout.write(f"{run.record.id}: {run.record.outcome or 'over'}, exit status {run.record.exit_code}\n")
    return 0


def _wait_for_end(run: KnownRun) -> KnownRun:
    """Wait until nobody answers any more, for as long as the job takes; return the run as it is then."""
    while True:
        try:
            ask(run.directory, "show")
        except NotRunningError:
            return find_run(run.directory, "")
        time.sleep(_LOOK_EVERY_S)
