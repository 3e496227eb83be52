"""The example configuration is one that the program takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from unsloth_watch.config.load import load_settings, split_command_line

pytestmark = pytest.mark.quick


def test_the_example_configuration_loads() -> None:
    example = Path(__file__).parents[2] / "configs" / "unsloth-watch.toml"
    options, _ = split_command_line(["--config", str(example), "true"])
    settings = load_settings(options, {}, "/")
    assert (settings.stall_timeout, settings.grace, settings.restart_on) == (300, 30, ("hang", "crash"))
