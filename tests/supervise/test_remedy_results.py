"""What a report says came of a remedy: the news replaces what was only expected."""

from __future__ import annotations

import pytest

from unsloth_watch.supervise.incident import supersede

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("attempt 2 runs with it", "attempt 2 completed"),
        ("attempt 2 runs unchanged", "attempt 2 completed"),
        ("attempt 2 runs with it; in place of your own A=1", "attempt 2 completed; in place of your own A=1"),
        ("/a was in use", "attempt 2 completed; /a was in use"),
    ],
)
def test_how_an_attempt_ended_takes_the_place_of_the_news_that_it_runs(before: str, after: str):
    assert supersede(before, "attempt 2 completed") == after
