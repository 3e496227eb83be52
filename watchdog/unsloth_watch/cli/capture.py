"""``unsloth-watch capture RUN``: take the stacks and all other evidence now, without pausing or ending anybody."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from unsloth_watch.cli.arguments import OF_A_RUN, Parser
from unsloth_watch.cli.order import write_json
from unsloth_watch.errors import WatchError
from unsloth_watch.supervise.request import ask
from unsloth_watch.tell.runs import find_run

_LOOK_EVERY_S = 0.1
_LIMIT_S = 90.0
"""Evidence has 30 s and its report 30 s more; then something is wrong."""


def main(words: Sequence[str]) -> int:
    """Run the verb; return 0 when the report is there."""
    parser = Parser(
        "capture",
        "Takes the evidence of a run now, as for a hang, and writes its report. Nobody is paused or ended.",
        "unsloth-watch capture latest",
        status=OF_A_RUN,
    )
    parser.add_run(is_required=True)
    parser.add_json()
    options = parser.parse_args(words)
    run = find_run(options.run, options.runs_dir)
    answer = ask(run.directory, "capture")
    directory = str(answer["directory"])
    until = time.monotonic() + _LIMIT_S
    while not os.path.exists(os.path.join(directory, "report.html")):
        if time.monotonic() > until:
            raise WatchError(f"{directory}: no report after {_LIMIT_S:g} s; see unsloth-watch show {run.record.id}")
        ask(run.directory, "show")  # raises when the run has ended meanwhile
        time.sleep(_LOOK_EVERY_S)
    if options.json:
        write_json(answer)
    else:
        sys.stdout.write(f"{os.path.join(directory, 'report.md')}\n")
    return 0
