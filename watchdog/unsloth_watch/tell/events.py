"""``events.jsonl``: what happened, one line each, on disk as it happens."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from unsloth_watch.tell.catalogue import check_event
from unsloth_watch.tell.linefile import LineFile
from unsloth_watch.tell.lines import encode_line, read_lines
from unsloth_watch.tell.moment import format_timestamp
from unsloth_watch.tell.redact import Redactor

QUEUE_LIMIT = 1000
"""Events that wait in memory for a disk that is full: 0.3 MB, days of an ordinary run."""


def complain_on_stderr(message: str) -> None:
    """Say one line on stderr; a closed or full stderr is no reason to stop."""
    try:
        os.write(2, f"unsloth-watch: {message}\n".encode("utf-8", "replace"))
    except OSError:
        pass  # nobody is left to tell


class EventLog:
    """Writes events; supervision never stops because it cannot.

    Args:
        path: ``events.jsonl``.
        run_id: The run's id, in every line.
        redactor: The run's redactor; everything foreign goes through it.
        wall: The clock for people, Unix seconds.
        complain: Told once, in words for people, when events cannot be written.
    """

    def __init__(
        self,
        path: str,
        run_id: str,
        redactor: Redactor,
        wall: Callable[[], float],
        complain: Callable[[str], None] = complain_on_stderr,
    ) -> None:
        self._file = LineFile(path, QUEUE_LIMIT)
        self._run_id = run_id
        self._redactor = redactor
        self._wall = wall
        self._complain = complain
        self._has_complained = False
        self._lost_told = 0

    @property
    def failures(self) -> int:
        """Writes that failed so far."""
        return self._file.failures

    @property
    def pending(self) -> int:
        """Events that wait for the disk."""
        return self._file.pending

    @property
    def lost(self) -> int:
        """Events that were dropped because too many waited."""
        return self._file.lost

    def emit(self, event: str, attempt: int, **fields: object) -> dict[str, Any]:
        """Write one event and return it as written, redacted: what the console and notifications show.

        Args:
            event: A name of ``catalogue.EVENTS``.
            attempt: Attempt that it concerns, from 1.
            **fields: The event's fields; structs and enums are written as plain data.

        Raises:
            AssertionError: The event is unknown or lacks a field. Never raises for what the disk does.
        """
        check_event(event, fields)
        record = self._record(event, attempt, fields)
        if self._file.append(encode_line(record)):
            self._tell_losses(attempt)
        elif not self._has_complained:
            self._has_complained = True
            self._complain(f"cannot write {self._file.path}: {self._file.trouble}; supervision goes on, events wait in memory")
        return record

    def close(self) -> None:
        """Try once more to write what waits, and close the file."""
        self._file.retry()
        self._file.close()

    def _record(self, event: str, attempt: int, fields: Mapping[str, object]) -> dict[str, Any]:
        record: dict[str, Any] = {
            "event": event,
            "timestamp": format_timestamp(self._wall()),
            "run": self._run_id,
            "attempt": attempt,
        }
        for name, value in fields.items():
            record[name] = self._redactor.value(value)
        return record

    def _tell_losses(self, attempt: int) -> None:
        """Leave a trace of dropped events where their place in the file is."""
        lost = self._file.lost - self._lost_told
        if lost:
            self._lost_told = self._file.lost
            fields = {"sensor": "events.jsonl", "why": f"{lost} events were lost while the file could not be written"}
            self._file.append(encode_line(self._record("sensor.degraded", attempt, fields)))


def read_events(path: str) -> Iterator[dict[str, Any]]:
    """Yield the events of a file, oldest first; a torn or damaged line is left out.

    Raises:
        OSError: The file cannot be opened or read.
    """
    for line in read_lines(path):
        try:
            event = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue  # torn by a full disk or a killed writer
        if isinstance(event, dict) and "event" in event:
            yield event
