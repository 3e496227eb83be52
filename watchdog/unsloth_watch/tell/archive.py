"""The incident's directory: what the supervisor itself writes before a child renders the report."""

from __future__ import annotations

import os
import sys

import msgspec

from unsloth_watch.model.evidence import Evidence
from unsloth_watch.tell.atomic import write_atomically
from unsloth_watch.tell.incident import Incident
from unsloth_watch.tell.lines import encode_line
from unsloth_watch.tell.markup import flatten_lines
from unsloth_watch.tell.redact import Redactor
from unsloth_watch.tell.report import build_report, select_variables
from unsloth_watch.tell.stacks import render_stacks


def write_incident(directory: str, incident: Incident, redactor: Redactor) -> list[str]:
    """Write ``report.json``, ``stacks/`` and ``evidence/evidence.json``, each atomically and redacted.

    ``report.json`` comes first: it alone makes the report.

    Returns:
        What could not be written and why, one phrase each; empty when all is there. It never raises for what the disk does.
    """
    troubles = _write(directory, "report.json", _pretty(build_report(incident, redactor)))
    return troubles + write_evidence(directory, incident.evidence, redactor)


def render_command(directory: str) -> list[str]:
    """Return the command of the child that renders ``report.md`` and ``report.html``.

    Isolated (``-I``): a job's directory may hold a ``html.py`` or a broken ``msgspec``, and its PYTHONPATH is not ours.
    """
    return [sys.executable, "-I", "-m", "unsloth_watch.tell.render", directory]


def write_evidence(directory: str, evidence: Evidence, redactor: Redactor) -> list[str]:
    """Write ``stacks/`` and ``evidence/``: possible as soon as the capture is done, before anybody knows why."""
    troubles: list[str] = []
    for process in evidence.processes:
        text = flatten_lines(redactor.text(render_stacks(process)))
        troubles += _write(os.path.join(directory, "stacks"), f"{process.ref.pid}.txt", text.encode("utf-8", "backslashreplace"))
    return troubles + _write(
        os.path.join(directory, "evidence"), "evidence.json", _pretty(redactor.value(_without_private(evidence)))
    )


def _without_private(evidence: Evidence) -> Evidence:
    """Leave out the variables that a report leaves out: the bundle travels as far as the report does."""
    processes = tuple(
        msgspec.structs.replace(process, environment=process.environment and select_variables(process.environment))
        for process in evidence.processes
    )
    return msgspec.structs.replace(evidence, processes=processes)


def _pretty(value: object) -> bytes:
    return msgspec.json.format(encode_line(value), indent=2) + b"\n"


def _write(directory: str, name: str, data: bytes) -> list[str]:
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        write_atomically(os.path.join(directory, name), data)
    except OSError as error:
        return [f"{name}: {error.strerror or error}"]
    return []
