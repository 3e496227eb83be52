"""``unsloth-watch bundle [RUN]``: an incident with its run's records in one file, to be sent to somebody."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from unsloth_watch.cli.arguments import Parser
from unsloth_watch.cli.report import find_incident
from unsloth_watch.cli.words import parse_number
from unsloth_watch.errors import WatchError
from unsloth_watch.tell.bundle import build_bundle
from unsloth_watch.tell.redact import Redactor
from unsloth_watch.tell.runs import find_run
from unsloth_watch.tell.secretmarks import read_marks


def main(words: Sequence[str]) -> int:
    """Run the verb; prints the path of the archive."""
    parser = Parser(
        "bundle",
        "Packs an incident with its run's records into one file that may be sent to somebody else.",
        "unsloth-watch bundle latest --output",
        status="0 done, 3 there is no such run, or it has no such incident",
    )
    parser.add_run()
    parser.add_argument("--incident", type=parse_number, metavar="N", help="number of the incident (default: the newest)")
    parser.add_argument("--output", action="store_true", help="put the end of the command's output in, redacted")
    options = parser.parse_args(words)
    run = find_run(options.run, options.runs_dir)
    number = int(os.path.basename(find_incident(run, options.incident)))
    marks = read_marks(run.directory) if options.output else None
    if options.output and marks is None:
        sys.stderr.write(
            "unsloth-watch: this run left nothing to know its secrets by, so those of the present environment are taken: "
            "read output.log before you send it\n"
        )
    redactor = Redactor(os.environ, [mark.placeholder for mark in marks.marks] if marks is not None else ())
    try:
        path = build_bundle(run.directory, number, redactor if options.output else None, marks)
    except OSError as error:
        raise WatchError(f"cannot write a bundle: {error.filename or run.directory}: {error.strerror}") from None
    sys.stdout.write(f"{path}\n")
    return 0
