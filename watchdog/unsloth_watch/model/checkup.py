"""What ``doctor`` found before a launch: one thing a finding, with what it means and how it is mended."""

from __future__ import annotations

import enum

import msgspec


class Level(str, enum.Enum):
    """How grave a finding is."""

    FINE = "ok"
    """As it should be."""
    NOTE = "note"
    """Worth knowing; nothing has to be done."""
    WARNING = "warning"
    """May cost time or make the job wait."""
    ERROR = "error"
    """The job will fail or hang."""


class Fix(msgspec.Struct, frozen=True):
    """What ``--fix`` may do: only what loses nothing and can be taken back.

    Attributes:
        kind: ``make-directory`` or ``quarantine-lock``.
        path: What it is done to.
    """

    kind: str
    path: str


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a checkup.

    Attributes:
        group: ``command``, ``libraries``, ``variables``, ``caches``, ``machine``, ``network`` or ``settings``.
        name: What was looked at: ``unsloth_zoo``, ``TMPDIR``, ``/dev/shm``.
        level: How grave.
        state: What was found.
        why: Why it matters; empty where all is well.
        mend: What to do; empty where nothing.
        source: Where the value comes from: a variable, ``default``, a file.
        fix: What ``--fix`` would do; None where only a person can.
    """

    group: str
    name: str
    level: Level
    state: str
    why: str = ""
    mend: str = ""
    source: str = ""
    fix: Fix | None = None


def grade(findings: tuple[Finding, ...]) -> int:
    """Return the exit status of a checkup: 2 with an error, 1 with a warning, 0 otherwise."""
    levels = {finding.level for finding in findings}
    return 2 if Level.ERROR in levels else 1 if Level.WARNING in levels else 0
