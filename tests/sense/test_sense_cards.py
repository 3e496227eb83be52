"""The cards of several vendors as one sense."""

from __future__ import annotations

import pytest

from unsloth_watch.model.sample import GpuSample
from unsloth_watch.sense.cards import Cards, open_cards

pytestmark = pytest.mark.quick


class Reader:
    def __init__(self, answer, xids=()):
        self.answer, self.xids, self.why = answer, xids, None if answer is not None else "it does not answer"
        self.watched = frozenset()
        self.is_closed = False

    def watch(self, pids):
        self.watched = pids

    def latest(self, at, max_age_s):
        return self.answer

    def take_xids(self):
        taken, self.xids = self.xids, ()
        return taken

    def close(self):
        self.is_closed = True


NVIDIA, AMD = GpuSample(0, "GPU-1"), GpuSample(0, "0000:08:00.0")


def test_all_cards_are_seen_together() -> None:
    cards = Cards((Reader((NVIDIA,), ((0, "GPU-1", 31),)), Reader((AMD,))))
    assert cards.latest(1.0, 5.0) == (NVIDIA, AMD)
    assert cards.why is None
    assert (cards.take_xids(), cards.take_xids()) == (((0, "GPU-1", 31),), ())


def test_one_vendor_unknown_is_all_unknown_with_its_reason() -> None:
    cards = Cards((Reader((NVIDIA,)), Reader(None)))
    assert cards.latest(1.0, 5.0) is None
    assert cards.why == "it does not answer"


def test_every_reader_is_told_and_ended() -> None:
    readers = (Reader(()), Reader(()))
    cards = Cards(readers)
    cards.watch(frozenset({7}))
    cards.close()
    assert all(reader.watched == {7} and reader.is_closed for reader in readers)


def test_a_machine_without_cards_has_none() -> None:
    cards = open_cards(None, 1.0)
    found = cards.latest(1.0, 5.0)
    cards.close()
    if found:
        pytest.skip("this machine has a GPU")
    assert found in ((), None)
