from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsloth_watch.model.invocation import Invocation, is_python, read_invocation
from unsloth_watch.model.release import is_within, read_version

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("2025.3.7", "2025.3.8"),
        ("2025.3.9", "2025.3.10"),
        ("2025.7.10", "2025.7.11"),
        ("5.0rc1", "5.0"),
        ("5.0", "5.0.post1"),
        ("5.0.dev1", "5.0a1"),
    ],
)
def test_releases_are_ordered_as_numbers(lower: str, higher: str):
    first, second = read_version(lower), read_version(higher)
    assert first is not None
    assert second is not None
    assert first < second


def test_local_labels_and_trailing_zeros_do_not_count():
    assert read_version("2.13.0+cpu") == read_version("2.13")


@pytest.mark.parametrize("text", ["", "unknown", "-", "main"])
def test_what_is_no_version_is_unknown_rather_than_old(text: str):
    assert read_version(text) is None
    assert is_within(text, "<2") is None


@pytest.mark.parametrize(
    ("version", "versions", "expected"),
    [
        ("2025.3.1", ">=2025.3.1,<2025.3.8", True),
        ("2025.3.8", ">=2025.3.1,<2025.3.8", False),
        ("2025.3.1", "==2025.3.1", True),
        ("2025.3.2", "!=2025.3.1", True),
        ("2025.3.1", "<=2025.3.1", True),
        ("2025.3.1", "<2025.3.1", False),
        ("2025.3.1", ">2025.3.1", False),
        ("2025.3.1", ">=2025.3.2", False),
        ("1.0", "", True),
        (None, ">=1", None),
    ],
)
def test_a_version_is_within_its_clauses(version: str | None, versions: str, expected: bool | None):
    assert is_within(version, versions) is expected


def test_clauses_that_are_none_are_refused_whatever_the_version():
    with pytest.raises(ValueError, match="no version clause"):
        is_within(None, "about 3")


@given(st.text())
def test_no_text_breaks_the_version_reader(text: str):
    read_version(text)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("python scripts/train.py --steps 3", Invocation("script", "scripts/train.py")),
        ("python -u -X dev -W error train.py", Invocation("script", "train.py", frozenset("u"))),
        ("python -Im trainer", Invocation("module", "trainer", frozenset("I"))),
        ("python -mtrainer", Invocation("module", "trainer")),
        ("python -Ec pass", Invocation("command", "", frozenset("E"))),
        ("python -", Invocation("stdin")),
        ("python", Invocation("stdin")),
        ("python -Wignore -- -odd.py", Invocation("script", "-odd.py")),
        ("python --check-hash-based-pycs never job.py", Invocation("script", "job.py")),
    ],
)
def test_a_command_line_is_read_as_the_interpreter_does(command: str, expected: Invocation):
    assert read_invocation(command.split()) == expected


def test_a_python_is_known_by_its_name():
    assert is_python(None, "/opt/bin/python3.11")
    assert is_python(None, "/opt/bin/python3.13t (deleted)")
    assert is_python(("python",), None)
    assert not is_python(("bash", "python"), "/bin/bash")
