"""How an attempt ended, in words, whatever signal ended it."""

from __future__ import annotations

import signal

import pytest

from unsloth_watch.supervise.job import Ending

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (signal.SIGTERM, "SIGTERM"),
        (signal.SIGRTMIN, "SIGRTMIN"),
        (signal.SIGRTMIN + 1, "SIGRTMIN+1"),
        (signal.SIGRTMAX, "SIGRTMAX"),
    ],
)
def test_every_signal_has_a_name_also_one_that_python_has_none_for(number: int, name: str) -> None:
    ending = Ending(number)
    assert (ending.signal_name, ending.exit_code) == (name, 128 + number)
