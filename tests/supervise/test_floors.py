"""The book of floors, as a run opens it."""

from __future__ import annotations

from pathlib import Path

from watched import Watched


def test_a_broken_book_is_told_once_and_stops_nothing(tmp_path: Path) -> None:
    book = tmp_path / "state" / "unsloth-watch" / "gpu-floors.json"
    book.parent.mkdir(parents=True)
    book.write_text('{"GPU-1": 3}')
    watched = Watched(tmp_path)
    status, _, _ = watched.run("sleep", "1.5", options=("--interval", "0.5s"))
    told = [event for event in watched.events("sensor.degraded") if event["sensor"] == "gpu floors"]
    assert status == 0
    assert [str(book) in event["why"] for event in told] == [True]
