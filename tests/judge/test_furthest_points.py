"""Furthest points of files: bounded, and it is the file that was open longest ago that is forgotten."""

from __future__ import annotations

import pytest

from unsloth_watch.judge.data import MOST_FILES, DataMemory, weigh_files
from unsloth_watch.judge.rules import Rules
from unsloth_watch.model.sample import FileSample

pytestmark = pytest.mark.quick
DEEP = 1 << 30


def test_a_file_that_stays_open_is_never_new_ground_again_however_many_others_come_and_go() -> None:
    log = FileSample(1, 1, "/data/shard", DEEP, DEEP, False)
    memory = DataMemory()
    found = []
    for tick in range(20):
        others = tuple(FileSample(1, 2 + tick * 1000 + number, f"/tmp/{tick}-{number}", 0, 0, False) for number in range(1000))
        memory, more = weigh_files(memory, (*others, log), Rules(), float(tick))
        assert len(memory.furthest) <= MOST_FILES
        found += more
    assert found == []


def test_more_files_open_at_once_than_are_remembered_are_new_but_once() -> None:
    files = tuple(FileSample(1, number, f"/data/{number}", DEEP, DEEP, False) for number in range(MOST_FILES + 100))
    memory = DataMemory()
    for tick in range(4):
        memory, found = weigh_files(memory, files, Rules(), float(tick))
        assert found == []
