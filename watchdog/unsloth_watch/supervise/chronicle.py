"""Everything that is told of a run: events, summary, samples, and the lines for people. Failing to write never stops the run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence

import msgspec

from unsloth_watch.__about__ import __version__
from unsloth_watch.config.settings import Settings
from unsloth_watch.model.sample import Sample
from unsloth_watch.supervise import clock
from unsloth_watch.tell.console import PREFIX, Verbosity, clean_line, describe
from unsloth_watch.tell.directory import RunDirectory
from unsloth_watch.tell.events import EventLog
from unsloth_watch.tell.moment import format_timestamp
from unsloth_watch.tell.records import SCHEMA, AttemptRecord, CacheRecord, IncidentRecord, RunFile, RunRecord, SettingRecord
from unsloth_watch.tell.redact import Redactor
from unsloth_watch.tell.samples import SampleLog

_STEADY = 10
"""Samples in a row after which a file can be written again: on a full disk a short line may still find room now and then."""


class Chronicle:
    """Writes the records of one run.

    Args:
        directory: Where they go.
        settings: The run's settings.
        command: Argument vector.
        cwd: Its working directory.
        environment: The user's environment, for what in it is secret.
        say: Takes a line for people.
        caches: What was decided about the compile caches.

    Attributes:
        attempt: Number of the attempt that events belong to.
        redactor: The run's redactor.
    """

    def __init__(
        self,
        directory: RunDirectory,
        settings: Settings,
        command: Sequence[str],
        *,
        cwd: str,
        environment: Mapping[str, str],
        say: Callable[[bytes], None],
        caches: Sequence[CacheRecord] = (),
    ) -> None:
        self.attempt = 1
        self.redactor = Redactor(environment)
        self._write = say
        self._verbosity = Verbosity.QUIET if settings.quiet else Verbosity.VERBOSE if settings.verbose else Verbosity.NORMAL
        self._events = EventLog(directory.events, directory.id, self.redactor, clock.wall, complain=self.complain)
        self._samples = SampleLog(directory.samples, self.redactor)
        self._file = RunFile(directory.summary, self.redactor)
        self._has_complained = False
        self._marked = -1
        self._losses: set[str] = set()
        self._is_losing = False
        self._kept = 0
        self._record = RunRecord(
            schema=SCHEMA,
            id=directory.id,
            command=tuple(command),
            cwd=cwd,
            started=self.now(),
            settings={name: SettingRecord(entry["value"], str(entry["source"])) for name, entry in settings.describe().items()},
            # What ``platform`` says, which takes 3 ms to import.
            versions={"unsloth-watch": __version__, "python": sys.version.split()[0], "kernel": os.uname().release},
            caches=tuple(caches),
        )
        self.event("run.started", command=list(command), run_directory=directory.path)

    @staticmethod
    def now() -> str:
        """Return this moment for people: UTC, RFC 3339."""
        return format_timestamp(clock.wall())

    @property
    def record(self) -> RunRecord:
        """The summary as it stands."""
        return self._record

    def event(self, name: str, **fields: object) -> None:
        """Record an event, and say it where it is worth a line."""
        event = self._events.emit(name, self.attempt, **fields)
        line = describe(event, self._verbosity)
        if line is not None:
            self._say(line)

    def complain(self, message: str) -> None:
        """Say something that is no event; it may name commands and variables, so it is redacted as they are."""
        self._say(PREFIX + clean_line(self.redactor.text(message)))

    def _say(self, line: str) -> None:
        self._write(line.encode("utf-8", "replace") + b"\n")

    def speak_with(self, say: Callable[[bytes], None]) -> None:
        """Take another way for lines to people, where relay and terminal have ended."""
        self._write = say

    def sample(self, sample: Sample) -> None:
        """Keep a sample; one that cannot be written is lost, which is told once for each reason, and so is the end of it."""
        if not self._samples.append(sample):
            self._kept = 0
            why = f"a replay will lack samples, which cannot be written: {self._samples.trouble}"
            if why not in self._losses:
                self._losses.add(why)
                self._is_losing = True
                self.event("sensor.degraded", sensor="samples.jsonl", why=why)
        elif self._is_losing:
            self._kept += 1
            if self._kept >= _STEADY:
                self._is_losing = False
                self.event("sensor.degraded", sensor="samples.jsonl", why=f"recovered; samples lost: {self._samples.lost}")

    def attempt_started(self, number: int, pid: int, changes: Mapping[str, str | None]) -> None:
        """Record the start of an attempt."""
        self.attempt = number
        self._record = self._record.with_attempt(AttemptRecord(number, pid, self.now(), env_changes=dict(changes)))
        reasons = {one.variable: one.why for one in self._record.caches if one.path and changes.get(one.variable) == one.path}
        self.event("attempt.started", pid=pid, env_changes=dict(changes), env_reasons=reasons)
        self.save()

    def attempt_finished(self, exit_code: int | None, signal: str | None, reason: str | None) -> None:
        """Record the end of the attempt."""
        for attempt in self._record.attempts:
            if attempt.number == self.attempt:
                done = msgspec.structs.replace(attempt, finished=self.now(), exit_code=exit_code, signal=signal, reason=reason)
                self._record = self._record.with_attempt(done)
        self.event("attempt.finished", exit_code=exit_code, signal=signal, reason=reason)
        self.save()

    def incident(self, incident: IncidentRecord) -> None:
        """Record an incident, and leave what the secrets of this run can be found by when it is sent to somebody."""
        self._record = self._record.with_incident(incident)
        self.save()
        self._leave_marks()

    def _leave_marks(self) -> None:
        from unsloth_watch.tell.secretmarks import make_marks, write_marks  # noqa: PLC0415 - only after an incident

        hunted = self.redactor.hunted
        if len(hunted) == self._marked:
            return
        try:
            write_marks(os.path.dirname(self._file.path), make_marks(hunted))
            self._marked = len(hunted)
        except OSError as error:  # a bundle then says that it has only the environment to go by
            if not self._has_complained:
                self._has_complained = True
                self.complain(f"cannot write into {os.path.dirname(self._file.path)}: {error.strerror}; supervision goes on")

    def finish(self, outcome: str, exit_code: int) -> None:
        """Record the end of the run and close everything."""
        self._record = self._record.finish(self.now(), outcome, exit_code)
        self.event("run.finished", outcome=outcome, exit_code=exit_code)
        self.save()
        self._events.close()
        self._samples.close()

    def save(self) -> None:
        """Write the summary; a disk that does not let us is said once."""
        if not self._file.write(self._record) and not self._has_complained:
            self._has_complained = True
            self.complain(f"cannot write {self._file.path}: {self._file.trouble}; supervision goes on")
