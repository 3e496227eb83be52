"""Fixtures for everybody."""

from __future__ import annotations

from pathlib import Path

import pytest

from watched import Watched


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    """A place to run commands under supervision."""
    return Watched(tmp_path)
