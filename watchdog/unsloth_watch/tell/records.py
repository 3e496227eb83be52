"""``run.json``: a run in one object, rewritten whole at every change."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from unsloth_watch.tell.atomic import write_atomically
from unsloth_watch.tell.lines import encode_line
from unsloth_watch.tell.redact import Redactor

SCHEMA = "unsloth-watch/run/1"


class AttemptRecord(msgspec.Struct, frozen=True):
    """One start of the command.

    Attributes:
        number: From 1.
        pid: PID of the command; None if it could not be started.
        started: UTC, RFC 3339.
        finished: UTC, RFC 3339; None while it runs.
        exit_code: Status of a normal end.
        signal: Name of the signal that ended it.
        reason: Why it ended, where the supervisor knows: ``hang``, ``interrupted``.
        env_changes: Variables that differ from the user's; None as a value means unset.
    """

    number: int
    pid: int | None
    started: str
    finished: str | None = None
    exit_code: int | None = None
    signal: str | None = None
    reason: str | None = None
    env_changes: dict[str, str | None] = {}


class RemedyRecord(msgspec.Struct, frozen=True):
    """One remedy that was tried.

    Attributes:
        id: Its name.
        kind: ``live``, ``environment`` or ``filesystem``.
        applied: Whether anything was changed by it.
        worked: Whether the work moved again by it; None as long as nobody knows.
        result: What came of it, one phrase.
    """

    id: str
    kind: str
    applied: bool
    worked: bool | None
    result: str


class IncidentRecord(msgspec.Struct, frozen=True):
    """One hang of the run.

    Attributes:
        number: From 1.
        cause: Id of the catalogue of causes.
        proven: Whether it was proven rather than waited for.
        quiet_s: Seconds without progress at the verdict.
        summary: One sentence.
        path: Directory of the incident, relative to the run directory.
        fingerprint: Same cause, culprit and stack give the same.
        attempt: The attempt that hung; None in records of before that was kept.
        remedies: What was tried, in order, and whether it helped.
        is_asked_for: Whether a person asked for the evidence: then it says nothing about a hang.
    """

    number: int
    cause: str
    proven: bool
    quiet_s: float
    summary: str
    path: str
    fingerprint: str = ""
    attempt: int | None = None
    remedies: tuple[RemedyRecord, ...] = ()
    is_asked_for: bool = False


class CacheRecord(msgspec.Struct, frozen=True):
    """What was decided about one compile cache at the launch.

    Attributes:
        cache: Id in the registry of caches.
        variable: Variable that moves it.
        path: Its place in this run; None where it was left alone.
        why: Why.
    """

    cache: str
    variable: str
    path: str | None
    why: str


class SettingRecord(msgspec.Struct, frozen=True):
    """A setting's value and where it came from (``default``, ``--grace``, ``/etc/x.toml:12``)."""

    value: Any
    source: str


class RunRecord(msgspec.Struct, frozen=True):
    """The whole of a run.

    Attributes:
        schema: Version of this shape.
        id: The run's id, the directory's name.
        command: Argument vector, redacted on writing.
        cwd: Working directory.
        started: UTC, RFC 3339.
        finished: UTC, RFC 3339; None while it runs or if the supervisor was killed.
        outcome: completed, failed, hung, interrupted or error; None while it runs.
        exit_code: Status that the supervisor returned.
        attempts: Oldest first.
        incidents: Oldest first.
        settings: Every setting with its source.
        versions: unsloth-watch, Python and the kernel.
        caches: Where the compile caches are, and why; empty where ``--cache keep`` or no library that has one.
    """

    schema: str
    id: str
    command: tuple[str, ...]
    cwd: str
    started: str
    finished: str | None = None
    outcome: str | None = None
    exit_code: int | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    incidents: tuple[IncidentRecord, ...] = ()
    settings: dict[str, SettingRecord] = {}
    versions: dict[str, str] = {}
    caches: tuple[CacheRecord, ...] = ()

    def with_attempt(self, attempt: AttemptRecord) -> RunRecord:
        """Return a record that has this attempt, in place of an earlier state of the same number."""
        return msgspec.structs.replace(self, attempts=_put(self.attempts, attempt))

    def with_incident(self, incident: IncidentRecord) -> RunRecord:
        """Return a record that has this incident, in place of an earlier state of the same number."""
        return msgspec.structs.replace(self, incidents=_put(self.incidents, incident))

    def finish(self, finished: str, outcome: str, exit_code: int) -> RunRecord:
        """Return the record of a run that is over."""
        return msgspec.structs.replace(self, finished=finished, outcome=outcome, exit_code=exit_code)


_Numbered = TypeVar("_Numbered", AttemptRecord, IncidentRecord)  # records that have a number


def _put(items: tuple[_Numbered, ...], new: _Numbered) -> tuple[_Numbered, ...]:
    by_number = {new.number: new, **{item.number: item for item in items if item.number != new.number}}
    return tuple(by_number[number] for number in sorted(by_number))


class RunFile:
    """Writes ``run.json``; a disk that is full leaves the previous state readable.

    Attributes:
        failures: Writes that failed.
        trouble: Reason of the newest failure, None while all is well.
    """

    def __init__(self, path: str, redactor: Redactor) -> None:
        self.path = path
        self.failures = 0
        self.trouble: str | None = None
        self._redactor = redactor

    def write(self, record: RunRecord) -> bool:
        """Replace the file with this record; False where the disk did not let us, which is counted and no error."""
        data = encode_line(self._redactor.value(record))
        try:
            write_atomically(self.path, msgspec.json.format(data, indent=2) + b"\n")
        except OSError as error:
            self.failures += 1
            self.trouble = error.strerror or str(error)
            return False
        self.trouble = None
        return True


def read_run(path: str) -> RunRecord:
    """Read a ``run.json``.

    Raises:
        OSError: It cannot be read.
        msgspec.DecodeError: It is no ``run.json`` of this version.
    """
    with open(path, "rb") as stream:
        return msgspec.json.decode(stream.read(), type=RunRecord)
