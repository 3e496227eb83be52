"""Renders an incident in a process of its own, so that the supervisor stays small: ``python -m unsloth_watch.tell.render DIR``."""

from __future__ import annotations

import os
import sys
from typing import Any

import msgspec

from unsloth_watch.tell.atomic import write_atomically
from unsloth_watch.tell.html import render_html
from unsloth_watch.tell.markdown import render_markdown
from unsloth_watch.tell.markup import flatten_lines
from unsloth_watch.tell.report import SCHEMA


def read_report(directory: str) -> dict[str, Any]:
    """Read ``report.json`` of an incident's directory.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no report of this version.
    """
    with open(os.path.join(directory, "report.json"), "rb") as stream:
        report = msgspec.json.decode(stream.read(), type=dict[str, Any])
    if report.get("schema") != SCHEMA:
        raise ValueError(f"{directory}: schema {report.get('schema')!r} is not {SCHEMA!r}; render it with its own version")
    return report


def render_incident(directory: str) -> None:
    """Write ``report.md`` and ``report.html`` beside ``report.json``, each atomically.

    Raises:
        OSError: A file cannot be read or written.
        ValueError: ``report.json`` is no report of this version.
    """
    report = read_report(directory)
    for name, text in (("report.md", render_markdown(report)), ("report.html", render_html(report))):
        # Also what stands in fences and code: a report is read in terminals too.
        write_atomically(os.path.join(directory, name), flatten_lines(text).encode("utf-8", "replace"))


def main(arguments: list[str]) -> int:
    """Render the directory named on the command line; 0 when done, 1 when it failed, 64 for a wrong command line."""
    if len(arguments) != 1:
        print("usage: python -m unsloth_watch.tell.render INCIDENT_DIR", file=sys.stderr)
        return 64
    try:
        render_incident(arguments[0])
    except (OSError, ValueError, LookupError, TypeError) as error:  # a damaged report.json; msgspec's errors are ValueErrors
        print(f"unsloth-watch: cannot render {arguments[0]}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
