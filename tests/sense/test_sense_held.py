"""GPU memory of processes that were ended, over NVML as it answered on an H100."""

from __future__ import annotations

import itertools

import pynvml
import pytest

from recordednvml import Replay, read_recording
from unsloth_watch.sense.held import SETTLED_READINGS, await_release
from unsloth_watch.sense.nvidia import Pynvml

STATES = read_recording("h100-nvml")
PID = STATES["held"]["pid"]
BEFORE = {call["answer"]: 2_225_930_240 for call in STATES["held"]["calls"] if call["call"] == "nvmlDeviceGetUUID"}
pytestmark = pytest.mark.quick


class Card:
    """The card while memory is held for some readings, and at rest after them; opens like the real library."""

    def __init__(self, held_for: int):
        self._held, self._idle = (Pynvml(Replay(STATES[state]["calls"])) for state in ("held", "idle"))
        self._left = held_for

    def open(self):
        self._idle.open()
        return self._held.open()

    def read(self, place, pids, **asks):
        self._left -= 1
        return (self._held if self._left >= 0 else self._idle).read(place, pids, **asks)

    def close(self):
        self._held.close()


def wait(card, **more):
    ticks = itertools.count()
    options = {"is_attributed": True, "before": BEFORE, "sleep": lambda _: None, "clock": lambda: 0.1 * next(ticks), **more}
    return await_release({PID}, 5.0, gpus=lambda: card, **options)


def test_memory_that_is_gone_is_free_at_once() -> None:
    found = wait(Card(0))
    assert found.is_free
    assert found.devices == ("GPU 0: 2122 MiB in use, 480 MiB after",)


def test_memory_that_goes_later_is_waited_for() -> None:
    found = wait(Card(4))
    assert found.is_free
    assert found.seconds > 0.3
    assert "480 MiB after" in found.devices[0]


def test_memory_that_does_not_go_is_said_with_its_holder() -> None:
    found = wait(Card(1 << 30))
    assert not found.is_free
    assert found.seconds >= 5.0
    assert found.devices == (f"GPU 0: 2122 MiB in use, 2122 MiB after, held by PID {PID}",)


def test_memory_of_nobody_known_is_waited_for_until_it_stops_falling() -> None:
    found = wait(Card(2), is_attributed=False)
    assert found.is_free
    assert found.seconds >= 0.1 * (2 + SETTLED_READINGS - 1)
    assert "480 MiB after" in found.devices[0]


def test_a_driver_that_fails_is_no_proof_of_anything() -> None:
    broken = Pynvml(Replay(STATES["idle"]["calls"], {"nvmlInit": pynvml.NVML_ERROR_UNKNOWN}))
    found = wait(broken)
    assert (found.is_free, found.devices) == (False, ())
    assert "Unknown Error" in (found.why or "")
