"""``unsloth-watch doctor``: what would go wrong with a launch, and the mend."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence

import msgspec

from unsloth_watch.cli.arguments import Parser
from unsloth_watch.model.checkup import Finding, Level, grade
from unsloth_watch.supervise.checkup.examination import Fixed, examine_launch, fix
from unsloth_watch.supervise.quarantines import close_quarantine, open_quarantine
from unsloth_watch.tell.console import clean_line
from unsloth_watch.tell.lines import encode_line
from unsloth_watch.tell.redact import Redactor

SCHEMA = "unsloth-watch/checkup/1"
_COLOURS = {Level.FINE: "32", Level.NOTE: "36", Level.WARNING: "33", Level.ERROR: "31;1"}


def main(words: Sequence[str]) -> int:
    """Run the verb; return 0 where all is well, 1 with warnings, 2 with errors."""
    before, command = _split(words)
    options = _parser().parse_args(before)
    cwd = os.getcwd()
    findings = examine_launch(command, os.environ, cwd)
    fixed = Fixed((), ())
    if options.fix and any(finding.fix is not None for finding in findings):
        place = open_quarantine(os.environ)
        try:
            fixed = fix(findings, place)
        finally:
            close_quarantine(place)
        if fixed.changes:
            findings = examine_launch(command, os.environ, cwd)
    redactor = Redactor(os.environ)
    if options.json:
        found = {"schema": SCHEMA, "status": grade(findings), "findings": findings, "changes": fixed.changes, "kept": fixed.kept}
        sys.stdout.buffer.write(msgspec.json.format(encode_line(redactor.value(found)), indent=2) + b"\n")
    else:
        has_colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        lines = _lines(findings, fixed, has_colour=has_colour)
        sys.stdout.write("".join(redactor.text(line) + "\n" for line in lines))
    return grade(findings)


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return our words and the command: what stands behind ``--``, if anything does."""
    place = words.index("--") if "--" in words else len(words)
    return list(words[:place]), list(words[place + 1 :])


def _parser() -> Parser:
    parser = Parser(
        "doctor",
        "Looks at what a launch of COMMAND from here would meet: its Python and libraries, variables, caches and their "
        "locks, the machine's limits, the network, and where every setting comes from. Starts nothing of the command.",
        "unsloth-watch doctor -- python train.py",
        status="0 fine, 1 warnings, 2 errors",
        usage="unsloth-watch doctor [--fix] [--json] [-- COMMAND [ARG]...]",
    )
    parser.add_argument(
        "--fix",
        action="store_true",
        help="make missing directories and move lock files without an owner into quarantine; nothing else",
    )
    parser.add_argument("--json", action="store_true", help="answer with data")
    return parser


def _lines(findings: Sequence[Finding], fixed: Fixed, *, has_colour: bool) -> Iterator[str]:
    group = ""
    for finding in findings:
        if finding.group != group:
            group = finding.group
            yield group
        yield _line(finding, has_colour=has_colour)
    for change in fixed.changes:
        yield f"fixed: {clean_line(change.target)}; undo: {clean_line(change.undo)}"
    for reason in fixed.kept:
        yield f"not fixed: {clean_line(reason)}"
    counts = [(sum(one.level is level for one in findings), level.value) for level in (Level.ERROR, Level.WARNING)]
    yield ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts)


def _line(finding: Finding, *, has_colour: bool) -> str:
    word = finding.level.value.ljust(8)
    if has_colour:
        word = f"\x1b[{_COLOURS[finding.level]}m{word}\x1b[0m"
    text = f"{finding.name}: {finding.state}"
    if finding.why:
        text += f" — {finding.why}"
    if finding.mend:
        text += f" → {finding.mend}"
    if finding.source:
        text += f" [{finding.source}]"
    return f"  {word}{clean_line(text)}"
