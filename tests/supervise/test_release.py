"""The wait for GPU memory before another attempt."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from judge.test_gpu_recordings import read_run
from unsloth_watch.model.sample import Sample
from unsloth_watch.supervise.release import begin_release
from waiting import until

pytestmark = pytest.mark.quick


def of_the_job(held: int | None) -> list[Sample]:
    sample = next(sample for sample in read_run("lock") if sample.gpus and sample.gpus[0].own_memory_bytes)
    return [msgspec.structs.replace(sample, gpus=(msgspec.structs.replace(sample.gpus[0], own_memory_bytes=held),))]


@pytest.fixture
def wake_fd():
    reading, writing = os.pipe()
    yield writing
    os.close(reading)
    os.close(writing)


def test_an_attempt_that_held_nothing_is_not_waited_for(wake_fd: int) -> None:
    assert begin_release(of_the_job(0), wake_fd) is None
    assert begin_release([], wake_fd) is None
    assert begin_release([msgspec.structs.replace(of_the_job(1)[0], gpus=())], wake_fd) is None


@pytest.mark.parametrize("held", [1 << 30, None])
@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="asks the real driver, which knows nothing of the recorded processes")
def test_without_a_driver_the_wait_ends_with_the_reason(wake_fd: int, held: int | None) -> None:
    waiting = begin_release(of_the_job(held), wake_fd)
    assert waiting is not None
    until(lambda: waiting.is_done)
    found = waiting.result()
    assert not found.is_free
    assert found.why is not None
