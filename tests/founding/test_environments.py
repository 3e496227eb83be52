from __future__ import annotations

from pathlib import Path

import pytest

from environments import load_script

pytestmark = pytest.mark.quick

SCRIPT = load_script()


def test_what_an_interrupted_builder_left_does_not_count_as_built(tmp_path: Path):
    place = SCRIPT.locate("founding", tmp_path)
    (place / "bin").mkdir(parents=True)
    (place / "bin" / "python").touch()
    assert not SCRIPT.is_built("founding", tmp_path)
    (place / ".complete").touch()
    assert SCRIPT.is_built("founding", tmp_path)
    assert SCRIPT.python_of("founding", tmp_path) == place / "bin" / "python"


def test_other_pins_below_give_another_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before = {name: SCRIPT.locate(name, tmp_path) for name in SCRIPT.ENVIRONMENTS}
    assert len(set(before.values())) == len(before)
    base = SCRIPT.ENVIRONMENTS["base"]
    monkeypatch.setitem(SCRIPT.ENVIRONMENTS, "base", SCRIPT.Environment(pins=("numpy==1.0",), check=base.check, has_torch=True))
    assert SCRIPT.locate("founding", tmp_path) != before["founding"]


def test_every_pin_names_one_version():
    for environment in SCRIPT.ENVIRONMENTS.values():
        for pin in environment.pins:
            assert "==" in pin.partition(";")[0], pin
