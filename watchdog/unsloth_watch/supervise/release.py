"""GPU memory of an attempt that was ended: seen to be free before the next attempt is started, which would run out of it else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unsloth_watch.model.sample import Sample
from unsloth_watch.sense.held import Release, await_release
from unsloth_watch.supervise import clock
from unsloth_watch.supervise.worker import Task

LIMIT_S = 10.0
"""Longest wait: a driver frees 80 GB in 1 to 3 s."""
_SLACK_S = 1.0


class ReleaseWait:
    """The wait for it, beside the loop.

    Args:
        pids: Processes that may have held memory.
        before: Bytes in use by UUID while they lived.
        wake_fd: Written to when it is over.
        is_attributed: Whether the driver's PIDs are ours.
    """

    def __init__(self, pids: frozenset[int], before: Mapping[str, int], wake_fd: int, *, is_attributed: bool) -> None:
        self._began = clock.monotonic()
        self._task: Task[Release] = Task(lambda: await_release(pids, LIMIT_S, is_attributed=is_attributed, before=before), wake_fd)

    @property
    def is_done(self) -> bool:
        """Whether it is over, or the driver itself does not come back."""
        return self._task.is_done or clock.monotonic() - self._began > LIMIT_S + _SLACK_S

    def result(self) -> Release:
        """Return what became of the memory; never raises."""
        if not self._task.is_done:
            return Release(False, clock.monotonic() - self._began, why="the GPU driver does not answer")
        try:
            return self._task.result()
        except Exception as error:  # not knowing must not stop a run; the event says what went wrong
            return Release(False, clock.monotonic() - self._began, why=f"{type(error).__name__}: {error}")


def begin_release(samples: Sequence[Sample], wake_fd: int) -> ReleaseWait | None:
    """Begin to wait for the memory of an attempt; None where it held none that NVIDIA's driver could tell of.

    Args:
        samples: The attempt's newest samples, oldest first.
        wake_fd: Written to when the wait is over.
    """
    gpus = [gpu for sample in samples for gpu in sample.gpus or () if gpu.uuid.startswith(("GPU-", "MIG-"))]
    processes = [process for sample in samples for process in sample.processes or ()]
    is_attributed = any(gpu.own_memory_bytes is not None for gpu in gpus)
    holds = any(gpu.own_memory_bytes for gpu in gpus) if is_attributed else any(process.has_gpu for process in processes)
    if not gpus or not holds:
        return None
    before = {gpu.uuid: gpu.memory_bytes for gpu in gpus if gpu.memory_bytes is not None}
    return ReleaseWait(frozenset(process.ref.pid for process in processes), before, wake_fd, is_attributed=is_attributed)
