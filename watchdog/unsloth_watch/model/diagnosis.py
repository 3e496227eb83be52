"""Why a job hangs, who is to blame, how sure that is, and what would mend it."""

from __future__ import annotations

import enum

import msgspec


class Status(str, enum.Enum):
    """How firmly a cause stands, as in postmortem practice."""

    ESTABLISHED = "established"
    """Shown by evidence that leaves no other reading."""
    SUPPORTED = "supported"
    """Several independent pieces agree, one reading is left open."""
    HYPOTHESIS = "hypothesis"
    """It would explain what is seen."""
    UNKNOWN = "unknown"
    """Nothing supports any cause."""


class Statement(msgspec.Struct, frozen=True):
    """One thing that was observed, and the file or tool it was read from."""

    statement: str
    source: str


class Culprit(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the waiting ends.

    Attributes:
        kind: ``process``, ``thread``, ``lock``, ``path``, ``peer``, ``rank`` or ``device``.
        pid: Process id.
        rank: Rank in the job.
        thread: Thread's name.
        frame: ``function (file:line)``.
        path: File or directory.
        peer: Address or command at the other end.
    """

    kind: str
    pid: int | None = None
    rank: int | None = None
    thread: str | None = None
    frame: str | None = None
    path: str | None = None
    peer: str | None = None

    def __str__(self) -> str:
        parts = [self.frame, self.path, self.peer, self.thread and f"thread {self.thread}", self.pid and f"PID {self.pid}"]
        return ", ".join(part for part in parts if part) or self.kind


class Remedy(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that may mend a cause, not yet applied.

    Attributes:
        id: Stable name: ``import-path``, ``redirect-compile-cache``.
        why: One sentence: why it should help this cause with this version.
        kind: ``environment``, ``filesystem``, ``live``, or ``advice`` for what only a person can do: it changes nothing by itself.
        environment: Variables for the next attempt; None as a value unsets.
        prepend_path: Variables of path lists that get an entry in front.
        quarantine: Paths to move aside once no process of the job lives.
        make_directories: Directories to create.
        advice: What a person should do in the end (``upgrade unsloth_zoo``), a command where there is one.
        overrides: Variables that are part of the cause, so that the user's own value of them gives way; all others win.
        stdin: Standard input of the next attempt: ``null`` for /dev/null, empty for what it was.
    """

    id: str
    why: str
    kind: str
    environment: dict[str, str | None] = {}
    prepend_path: dict[str, str] = {}
    quarantine: tuple[str, ...] = ()
    make_directories: tuple[str, ...] = ()
    advice: str = ""
    overrides: tuple[str, ...] = ()
    stdin: str = ""


class Diagnosis(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to "why".

    Attributes:
        cause: Id of the catalogue of causes.
        title: A headline of a few words.
        summary: One sentence that a person can act upon.
        status: How firmly it stands.
        confidence: Probability in 0–1 that the cause is right.
        culprit: Where the waiting ends.
        evidence: What it rests on.
        refuted_by: What would show it to be wrong.
        remedies: Least invasive first.
        alternatives: Other causes that were weighed, as ``cause: why not``.
        fingerprint: Same cause, culprit and normalised stack give the same 16 hex digits.
    """

    cause: str
    title: str
    summary: str
    status: Status
    confidence: float
    culprit: Culprit | None = None
    evidence: tuple[Statement, ...] = ()
    refuted_by: str = ""
    remedies: tuple[Remedy, ...] = ()
    alternatives: tuple[str, ...] = ()
    fingerprint: str = ""
