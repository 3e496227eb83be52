"""The report of one incident: written beside the loop whenever more is known, and rendered by a child, which keeps us small."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from unsloth_watch.capture.command import run_command
from unsloth_watch.errors import WatchError
from unsloth_watch.supervise.worker import Task
from unsloth_watch.tell.archive import render_command, write_incident
from unsloth_watch.tell.directory import find_base
from unsloth_watch.tell.previous import find_previous
from unsloth_watch.tell.samples import read_samples
from unsloth_watch.tell.series import keep_plotted

if TYPE_CHECKING:
    from unsloth_watch.supervise.run import Run
    from unsloth_watch.tell.incident import Incident
    from unsloth_watch.tell.redact import Redactor

_LIMIT_S = 30.0
"""Longest wait for one writing, its rendering included."""


class Report:
    """The files in an incident's directory.

    Args:
        run: The run.
        directory: Where they are.
    """

    def __init__(self, run: Run, directory: str) -> None:
        self.directory = directory
        self._run = run
        self._writing: Task[None] | None = None

    def write(self, incident: Incident) -> None:
        """Write the report as things stand, after the writing before it, and return at once.

        Args:
            incident: What is known.
        """
        launch = self._run.launch
        before, redactor, samples, directory = self._writing, self._run.chronicle.redactor, launch.directory.samples, self.directory
        bases = (find_base(launch.environment), os.path.dirname(launch.directory.path))

        def work() -> None:
            if before is not None:
                before.wait(_LIMIT_S)
            previous = find_previous(incident.diagnosis.fingerprint, bases, incident.run)
            _archive(msgspec.structs.replace(incident, previous=previous), directory, samples, redactor)

        self._writing = Task(work, self._run.poller.wake_fd)

    @property
    def is_written(self) -> bool:
        """Whether the last writing has ended, well or not."""
        return self._writing is None or self._writing.is_done

    def wait(self) -> None:
        """Wait until the newest report is there, and say so if it is not; at the end of a run, or where it is."""
        if self._writing is None:
            return
        self._writing.wait(_LIMIT_S)
        try:
            if self._writing.is_done:
                self._writing.result()
        except Exception as error:  # a report that cannot be written is said; the run's outcome stands
            self._run.chronicle.complain(f"cannot write the report in {self.directory}: {error}")


def _archive(incident: Incident, directory: str, samples: str, redactor: Redactor) -> None:
    """Write ``report.json``, the stacks and the evidence; render ``report.md`` and ``report.html`` in a child."""
    try:
        plotted = keep_plotted(read_samples(samples), incident.verdict)
    except OSError:  # no sample could be written: the report goes without plots
        plotted = ()
    # Each by itself, since makedirs' mode counts for the last one only: the run directory may have been deleted meanwhile.
    for folder in (os.path.dirname(os.path.dirname(directory)), os.path.dirname(directory), directory):
        os.makedirs(folder, mode=0o700, exist_ok=True)
    troubles = write_incident(directory, msgspec.structs.replace(incident, samples=plotted), redactor)
    if troubles:
        raise WatchError("; ".join(troubles))
    outcome = run_command(render_command(directory), _LIMIT_S)
    if outcome.rc != 0:
        raise WatchError(f"rendering failed: {outcome.stderr.decode('utf-8', 'replace').strip() or outcome.rc}")
