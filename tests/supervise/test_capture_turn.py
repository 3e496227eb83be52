"""Captures of one process take turns: the one of an incident that was abandoned may still be under way."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

import unsloth_watch.supervise.findings as module
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.supervise.findings import Findings, find_nothing, investigate

pytestmark = pytest.mark.quick
ROOT = ProcessRef(1, 1)


def take() -> Findings:
    return investigate((ROOT,), ROOT, None, (), with_locals=False)


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A capture that is under way until the event is set."""
    has_begun, may_end = threading.Event(), threading.Event()

    def work(*_words: object, **_more: object) -> Findings:
        has_begun.set()
        may_end.wait()
        return find_nothing("not looked")

    monkeypatch.setattr(module, "_investigate", work)
    thread = threading.Thread(target=take)
    thread.start()
    has_begun.wait()
    yield may_end
    may_end.set()
    thread.join()


def test_a_capture_is_not_begun_while_another_is_under_way(capture: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.0)
    with pytest.raises(TimeoutError, match="another capture is still under way"):
        take()


def test_it_is_taken_when_the_other_has_ended(capture: threading.Event) -> None:
    capture.set()
    assert take().evidence.missing == ("not looked",)
