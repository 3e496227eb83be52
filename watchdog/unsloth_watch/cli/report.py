"""``unsloth-watch report [RUN]``: the report of an incident."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from unsloth_watch.cli.arguments import Parser
from unsloth_watch.cli.words import parse_number
from unsloth_watch.errors import CannotLookError
from unsloth_watch.tell.runs import KnownRun, find_run


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    parser = Parser(
        "report",
        "Prints the report of an incident as Markdown, ready for a bug ticket, or opens it as a page.",
        "unsloth-watch report latest --open",
        status="0 done, 3 there is no such run, or it has no such incident",
    )
    parser.add_run()
    parser.add_argument("--incident", type=parse_number, metavar="N", help="number of the incident (default: the newest)")
    parser.add_argument("--open", action="store_true", help="open the page in a browser instead")
    parser.add_json()
    options = parser.parse_args(words)
    directory = find_incident(find_run(options.run, options.runs_dir), options.incident)
    if options.open:
        return _open(os.path.join(directory, "report.html"))
    path = os.path.join(directory, "report.json" if options.json else "report.md")
    try:
        with open(path, "rb") as stream:
            sys.stdout.buffer.write(stream.read())
    except OSError as error:
        raise CannotLookError(f"{path}: {error.strerror}; the report may still be on its way") from None
    return 0


def find_incident(run: KnownRun, number: int | None) -> str:
    """Return the directory of an incident.

    Args:
        run: The run.
        number: Its number; None for the newest.

    Raises:
        CannotLookError: There is no such incident.
    """
    numbers = [incident.number for incident in run.record.incidents]
    if not numbers:
        raise CannotLookError(
            f"{run.record.id} has no incidents: nothing hung, and no evidence was asked for; see unsloth-watch runs for others"
        )
    if number is not None and number not in numbers:
        raise CannotLookError(f"{run.record.id} has no incident {number}; it has {', '.join(map(str, numbers))}")
    chosen = number if number is not None else max(numbers)
    path = next(incident.path for incident in run.record.incidents if incident.number == chosen)
    return os.path.join(run.directory, path)


def _open(path: str) -> int:
    import webbrowser  # noqa: PLC0415 - only here

    if not os.path.exists(path):
        raise CannotLookError(f"{path} does not exist; the report may still be on its way")
    if not webbrowser.open(f"file://{os.path.abspath(path)}"):
        raise CannotLookError(f"there is no browser to open; the page is {path}")
    return 0
