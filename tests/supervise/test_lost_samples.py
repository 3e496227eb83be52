"""Samples that cannot be written: a replay lacks them, which is told, and so is the end of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from scenario import sample
from unsloth_watch.config.settings import Settings
from unsloth_watch.supervise.chronicle import Chronicle
from unsloth_watch.tell.directory import RunDirectory
from unsloth_watch.tell.events import read_events

pytestmark = pytest.mark.quick


def test_samples_that_cannot_be_written_are_told_once_and_so_is_their_return(tmp_path: Path) -> None:
    directory = RunDirectory(str(tmp_path))
    obstacle = Path(directory.samples)
    obstacle.mkdir()
    chronicle = Chronicle(directory, Settings({"quiet": True, "verbose": False}, {}), ("x",), cwd="/", environment={}, say=id)
    for at in range(30):
        if at == 10:
            obstacle.rmdir()
        if at == 11:  # one that finds room by chance is no return
            obstacle.unlink()
            obstacle.mkdir()
        if at == 15:
            obstacle.rmdir()
        chronicle.sample(sample(float(at)))
    chronicle.finish("completed", 0)
    told = [event["why"] for event in read_events(directory.events) if event.get("sensor") == "samples.jsonl"]
    assert len(told) == 2
    assert "a replay will lack samples" in told[0]
    assert told[1] == "recovered; samples lost: 14"
