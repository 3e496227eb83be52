"""A loop of a library that its caller gave a time-out: the stack is the same as without one, and the program goes on after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from unsloth_watch.capture.bounds import mark_bounds
from unsloth_watch.model.evidence import Frame, ProcessEvidence, ThreadEvidence
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.waits.loops import Loop
from unsloth_watch.waits.wait import Class, classify

pytestmark = pytest.mark.quick

LOADER = """\
def _get_data(self):
    if self._timeout > 0:
        success, data = self._try_get_data(self._timeout)
    while True:
        success, data = self._try_get_data()
"""


def polling(file: str, line: int) -> ProcessEvidence:
    """A process whose main thread is in torch's loop, called from a line of ``_get_data``."""
    frames = (
        Frame("poll", "/usr/lib/python3.11/multiprocessing/connection.py", 257),
        Frame("_MultiProcessingDataLoaderIter._try_get_data", file, 90),
        Frame("_MultiProcessingDataLoaderIter._get_data", file, line),
        Frame("<module>", "/home/u/train.py", 7),
    )
    call = {"call": "poll", "wait": "polls fd 7, for 2 s at most", "wait_fds": (7,)}
    thread = ThreadEvidence(10, "MainThread", is_main=True, frames=frames, state="S", **call)
    return ProcessEvidence(ref=ProcessRef(10, 1), ppid=1, state="S", threads=(thread,))


@pytest.fixture
def loader(tmp_path: Path) -> str:
    """The source of the loader, where torch has it."""
    path = tmp_path / "torch/utils/data/dataloader.py"
    path.parent.mkdir(parents=True)
    path.write_text(LOADER)
    return str(path)


def test_a_loop_that_the_library_calls_for_ever_waits_as_if_it_had_no_time_out(loader: str) -> None:
    (process,) = mark_bounds([polling(loader, 5)])
    assert not process.threads[0].is_bounded
    assert classify(process.threads[0], process).loop is Loop.POLL


def test_a_loop_with_a_time_out_of_the_programs_own_wakes_by_the_clock_and_nothing_else_is_known(loader: str) -> None:
    (process,) = mark_bounds([polling(loader, 3)])
    wait = classify(process.threads[0], process)
    assert (wait.kind, wait.loop) == (Class.TIMED, None)


@pytest.mark.parametrize("line", [0, 500])
def test_a_call_that_is_not_in_the_source_counts_as_one_with_a_time_out(loader: str, line: int) -> None:
    (process,) = mark_bounds([polling(loader, line)])
    assert process.threads[0].is_bounded


def test_a_source_that_is_gone_counts_so_too(tmp_path: Path) -> None:
    (process,) = mark_bounds([polling(str(tmp_path / "torch/utils/data/dataloader.py"), 5)])
    assert process.threads[0].is_bounded
