"""The end of the command's output, as a terminal would show it and as a report may hold it."""

from __future__ import annotations

import re

LINES = 60
"""Lines kept: the last log lines, a progress bar and a traceback fit."""
LONGEST_LINE = 500
"""Characters; a longer line is cut in the middle of nothing that a reader would miss."""
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_]")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def clean_tail(output: str, lines: int = LINES) -> str:
    """Return the last lines without colours and control signs; of a progress bar that rewrote itself only the last state.

    Redact before: a secret must not be cut in two.

    Args:
        output: What the command printed, from the beginning of a line.
        lines: Lines to keep.
    """
    shown = []
    for line in _ESCAPES.sub("", output).replace("\r\n", "\n").split("\n"):
        states = [state for state in line.split("\r") if state.strip()]
        text = _CONTROLS.sub("", states[-1] if states else "").rstrip()
        shown.append(text if len(text) <= LONGEST_LINE else text[:LONGEST_LINE] + " …")
    while shown and not shown[-1]:
        shown.pop()
    return "\n".join(shown[-lines:])
