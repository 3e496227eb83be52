"""The interpreters of the real environments, as ``scripts/environments.py`` builds them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "environments.py"


def load_script() -> ModuleType:
    """Return ``scripts/environments.py`` as a module; it is a script and on nobody's import path."""
    spec = importlib.util.spec_from_file_location("build_environments", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def interpreter_of(name: str) -> Path:
    """Return the interpreter of an environment that is built; skip with the command that builds it otherwise.

    Not built here: the first time takes minutes where torch has to be downloaded, and would look like a hanging test.
    """
    script = load_script()
    if not script.is_built(name):
        pytest.skip(f"the environment {name} is not built: {sys.executable} scripts/environments.py {name}")
    return script.python_of(name)
