"""Which calls are mere sleeps, by their raw arguments."""

from __future__ import annotations

import pytest

from unsloth_watch.waits.wait import is_sleep

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("call", "args", "is_one"),
    [
        ("nanosleep", (), True),
        ("clock_nanosleep", (1, 1, 0x7000, 0, 0, 0), True),
        ("select", (0, 0, 0, 0, 0x7000, 0), True),
        ("pselect6", (0, 0, 0, 0, 0x7000, 0), True),
        ("pselect6", (0, 0, 0, 0, 0, 0), False),  # for ever
        ("pselect6", (4, 0x6000, 0, 0, 0x7000, 0), False),  # for descriptors too
        ("pselect6", (), False),  # not known
        ("poll", (0x6000, 0, 1500, 0, 0, 0), True),
        ("poll", (0x6000, 0, 0xFFFFFFFF, 0, 0, 0), False),
        ("poll", (0x6000, 1, 1500, 0, 0, 0), False),
        ("ppoll", (0x6000, 0, 0x7000, 0, 0, 0), True),
        ("ppoll", (0x6000, 0, 0, 0, 0, 0), False),
        ("epoll_wait", (3, 0x6000, 0, 1500, 0, 0), False),  # another thread may add a descriptor to the set
        ("futex", (0x6000, 0x89, 0, 0x7000, 0, 0), False),
        (None, (), False),
    ],
)
def test_a_sleep_waits_for_nothing_but_the_time(call, args, is_one):
    assert is_sleep(call, args) is is_one
