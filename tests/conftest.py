"""Fixtures for everybody."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from watched import Watched

# Under nohup everybody ignores it, and what is started ignores it too, as it should: no test of hanging up could then pass.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    """A place to run commands under supervision."""
    return Watched(tmp_path)
