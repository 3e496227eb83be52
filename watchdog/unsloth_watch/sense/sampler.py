"""One tick of all senses. Each fails for itself: its field becomes None, its name is noted, the others go on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from unsloth_watch.model.process import ProcessRef, ProcessSample
from unsloth_watch.model.receiver import Receiver, ReceiverSample
from unsloth_watch.model.sample import ConnectionSample, FileSample, GpuSample, Look, OutputSample, Sample
from unsloth_watch.sense.cards import GpuSense
from unsloth_watch.sense.connections import ConnectionReader
from unsloth_watch.sense.contention import read_cpu_share
from unsloth_watch.sense.files import FileReader
from unsloth_watch.sense.procfs import ProcessReader
from unsloth_watch.sense.receivers import read_receivers
from unsloth_watch.sense.tree import ProcessTree

LATE_INTERVALS = 3.0
"""A tick that comes more than so many intervals, and ``LATE_S``, after the one before says that *we* did not run."""
LATE_S = 2.0
"""Least lateness that counts: on a loaded machine ticks come a second late without meaning anything."""
GPU_AGE_INTERVALS = 5.0
"""Age in intervals, but at least ``GPU_AGE_S``, from which a GPU reading says nothing of now."""
GPU_AGE_S = 5.0
RECOVERED = "recovered"
"""What ``take_degradations`` says of a sense that answers again."""
_T = TypeVar("_T")


def suspended_s() -> float:
    """Return the seconds that this machine has slept since boot: the boot clock counts them, the monotonic one does not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


class Sampler:
    """Makes samples.

    Args:
        tree: Who belongs to the job.
        output: Reads what was printed since the last call; None where the output is not relayed.
        files: Open files, and the sockets among them; None leaves both senses out.
        gpu: GPUs; None leaves the sense out.
        interval_s: Seconds between ticks, as asked for.
        processes: Reads a process.
        suspended: Seconds slept since boot.
    """

    def __init__(
        self,
        tree: ProcessTree,
        output: Callable[[], OutputSample | None] | None,
        files: FileReader | None,
        gpu: GpuSense | None,
        interval_s: float,
        *,
        processes: ProcessReader | None = None,
        suspended: Callable[[], float] = suspended_s,
    ) -> None:
        self._tree = tree
        self._output = output
        self._files = files
        self._gpu = gpu
        self._interval_s = interval_s
        self._processes = processes if processes is not None else ProcessReader()
        self._connections = ConnectionReader()
        self._suspended = suspended
        self._last: tuple[float, float] | None = None
        self._why: dict[str, str] = {}
        self._degraded: list[str] = []
        self._answered: set[str] = set()
        self._changes: list[tuple[str, str]] = []
        self._xids: list[tuple[int, str, int]] = []
        self._receivers: tuple[Receiver, ...] = ()

    def sample(self, at: float, wall: float, looks: tuple[Look, ...] = (), heartbeats: int | None = None) -> Sample:
        """Return what is seen now. Never raises for a sense that fails.

        Args:
            at: Now, seconds of CLOCK_MONOTONIC.
            wall: Now, Unix time.
            looks: Stack looks since the previous sample, passed through.
            heartbeats: The command's own count, passed through.
        """
        gap_s = self._measure_gap(at)
        self._degraded = []
        self._answered.clear()
        refs = self._attempt("processes", lambda: self._tree.members(can_wait=True))
        files = processes = connections = None
        receivers: tuple[ReceiverSample, ...] | None = None if self._receivers else ()
        if refs is not None:
            # The files come first: they tell which process holds a GPU.
            files = self._attempt("files", lambda: self._read_files(refs))
            connections = self._attempt("connections", self._read_connections)
            processes = self._attempt("processes", lambda: self._read_processes(refs))
            if self._receivers:
                here = [one for one in self._receivers if one.ref in refs]
                receivers = self._attempt("receivers", lambda: read_receivers(here))
        output = self._attempt("output", self._output) if self._output is not None else None
        gpus = self._attempt("gpu", lambda: self._read_gpus(at, refs, gap_s))
        self._note_recoveries()
        return Sample(
            at=at,
            wall=wall,
            processes=processes,
            output=output,
            files=files,
            gpus=gpus,
            connections=connections,
            looks=looks,
            gap_s=gap_s,
            degraded=tuple(self._degraded),
            heartbeats=heartbeats,
            cpu_share=read_cpu_share(),
            receivers=receivers,
        )

    def watch_receivers(self, receivers: tuple[Receiver, ...]) -> None:
        """Look at these threads, too, from now on, and at no others of their kind."""
        self._receivers = receivers

    def take_degradations(self) -> list[tuple[str, str]]:
        """Return (sense, why) of each sense that has failed, failed otherwise or recovered (``RECOVERED``) since the last call."""
        changes, self._changes = self._changes, []
        return changes

    def take_xids(self) -> list[tuple[int, str, int]]:
        """Return (index, UUID, Xid) of each fault that a GPU reported since the last call."""
        xids, self._xids = self._xids, []
        return xids

    def close(self) -> None:
        """Give descriptors back and let the GPU thread end."""
        self._tree.close()
        self._processes.close()
        self._connections.close()
        if self._gpu is not None:
            self._gpu.close()

    def _attempt(self, sense: str, read: Callable[[], _T | None]) -> _T | None:
        """Return what a sense answers; None, noted with the reason, where it fails."""
        try:
            value = read()
        except Exception as error:
            # A sense must not stop the watch, whatever goes wrong in it. The reason is in the events, and the judge sees its name.
            self._note(sense, f"{type(error).__name__}: {error}")
            return None
        self._answered.add(sense)
        return value

    def _note(self, sense: str, why: str) -> None:
        self._degraded.append(sense)
        if self._why.get(sense) != why:
            self._why[sense] = why
            self._changes.append((sense, why))

    def _note_recoveries(self) -> None:
        for sense in [sense for sense in self._why if sense in self._answered and sense not in self._degraded]:
            del self._why[sense]
            self._changes.append((sense, RECOVERED))

    def _read_processes(self, refs: tuple[ProcessRef, ...]) -> tuple[ProcessSample, ...]:
        return self._processes.read_all(refs, self._files.gpu_knowledge() if self._files is not None else None)

    def _read_files(self, refs: tuple[ProcessRef, ...]) -> tuple[FileSample, ...] | None:
        if self._files is None:
            return None
        found = self._files.read(refs)
        if found is None:
            self._note("files", "no process of the job lets its descriptors be read")
        return found

    def _read_connections(self) -> tuple[ConnectionSample, ...] | None:
        if self._files is None:
            return None
        found = self._connections.read(self._files.sockets())
        if self._connections.why is not None:
            self._note("connections", self._connections.why)
        return found

    def _read_gpus(self, at: float, refs: tuple[ProcessRef, ...] | None, gap_s: float) -> tuple[GpuSample, ...] | None:
        if self._gpu is None:
            return None
        if refs is not None:
            # Only who holds a GPU's node: in a container the numbers that a driver tells could be anybody's.
            knowledge = self._files.gpu_knowledge() if self._files is not None else {}
            self._gpu.watch(frozenset(ref.pid for ref in refs if knowledge.get(ref.pid) is not False))
        # While we did not run, neither did the thread that reads the GPUs: its answer is no older than it must be.
        found = self._gpu.latest(at, max(GPU_AGE_S, GPU_AGE_INTERVALS * self._interval_s) + gap_s)
        xids = self._gpu.take_xids()
        self._xids += xids
        if found is None and self._gpu.why is not None:
            self._note("gpu", self._gpu.why)
        if found is None or not xids:
            return found
        return tuple(
            msgspec.structs.replace(gpu, xids=tuple(number for _, uuid, number in xids if uuid == gpu.uuid)) for gpu in found
        )

    def _measure_gap(self, at: float) -> float:
        """Return the seconds in which the machine slept or we did not run.

        Time asleep is in no monotonic clock, so it is no part of ``at``; a late tick is. Both are reported alike: nothing that was
        due in them can be held against the job.
        """
        suspended = self._suspended()
        last, self._last = self._last, (at, suspended)
        if last is None:
            return 0.0
        elapsed = at - last[0]
        late_s = elapsed - self._interval_s
        gap_s = late_s if elapsed > LATE_INTERVALS * self._interval_s and late_s > LATE_S else 0.0
        slept_s = suspended - last[1]
        # The two clocks are read one after the other: microseconds apart are no sleep.
        return gap_s + (slept_s if slept_s > 0.1 else 0.0)
