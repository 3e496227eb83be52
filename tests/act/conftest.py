"""Fixtures: a guardian with a job, and a supervisor in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from act.jobs import Job


@pytest.fixture
def job() -> Iterator[Job]:
    job = Job()
    yield job
    job.close()


@pytest.fixture
def supervisor() -> Iterator:
    """Start a supervisor script in a process of its own: what it does as a subreaper must not happen to pytest."""
    started = []

    def start(code: str, *argv: str, **options) -> subprocess.Popen:
        process = subprocess.Popen([sys.executable, "-c", code, *argv], stdout=subprocess.PIPE, text=True, **options)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
