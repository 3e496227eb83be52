"""``memory-thrash``: the machine or the control group is short of memory, and the program fetches its own pages again and again."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.fingerprint import fingerprint
from unsloth_watch.diagnose.frames import own_frame
from unsloth_watch.diagnose.rule import CONFIDENCE
from unsloth_watch.model.diagnosis import Culprit, Diagnosis, Remedy, Statement, Status
from unsloth_watch.model.process import ProcessRef, ProcessSample

MIN_FAULTS = 100.0
"""Major page faults a second of the job. Loading a mapped model faults as much: alone they mean nothing."""
MIN_KERNEL_SHARE = 0.6
"""Share of the kernel in the job's CPU time; training has some hundredths."""
MIN_PRESSURE = 20.0
"""Percent of the last ten seconds in which something waited for memory (PSI ``some avg10``); a healthy host shows 0."""
NEARLY_FULL = 0.97
"""Share of a control group's limit at which the kernel reclaims all the time."""
MIN_WINDOW_S = 2.0


class _Rates(msgspec.Struct, frozen=True):
    """What the kept samples say of the job.

    Attributes:
        seconds: Their span.
        faults: Major page faults a second.
        kernel_share: Share of the kernel in the CPU time; None where none was used.
        worst: Process with the most major faults.
    """

    seconds: float
    faults: float
    kernel_share: float | None
    worst: ProcessRef


class MemoryThrash:
    """Signs of a shortage of memory that agree: faults, kernel time, pressure, a full control group, swap."""

    id = "memory-thrash"

    def judge(self, case: Case) -> Diagnosis | None:
        """Return the shortage; None where fewer than two signs show, one of them of this very job."""
        rates = _measure(case)
        host = _read_host(case)
        if rates is None:
            return None
        own = list(_state_own(rates))
        around = list(host)
        if not own or not around:
            return None
        status = Status.ESTABLISHED if len(own) == 2 and len(around) >= 2 else Status.SUPPORTED
        status = status if case.is_doubted else Status.HYPOTHESIS
        return _explain(case, status, rates, [*own, *around])


def _measure(case: Case) -> _Rates | None:
    samples = [sample for sample in case.samples if sample.processes is not None]
    if len(samples) < 2 or samples[-1].at - samples[0].at < MIN_WINDOW_S:
        return None
    first = {process.ref: process for process in samples[0].processes or ()}
    pairs: list[tuple[ProcessSample, ProcessSample]] = [
        (first[process.ref], process) for process in samples[-1].processes or () if process.ref in first
    ]
    if not pairs:
        return None
    seconds = samples[-1].at - samples[0].at
    user, kernel = (sum(getattr(new, name) - getattr(old, name) for old, new in pairs) for name in ("utime_s", "stime_s"))
    worst = max(pairs, key=lambda pair: pair[1].majflt - pair[0].majflt)[1].ref
    faults = sum(new.majflt - old.majflt for old, new in pairs) / seconds
    busy = user + kernel
    return _Rates(seconds, faults, kernel / busy if busy > 0.05 * seconds else None, worst)


def _state_own(rates: _Rates) -> Iterator[Statement]:
    if rates.faults >= MIN_FAULTS:
        yield Statement(f"{rates.faults:.0f} major page faults a second over {rates.seconds:.0f} s", "/proc/PID/stat")
    if rates.kernel_share is not None and rates.kernel_share >= MIN_KERNEL_SHARE:
        yield Statement(f"{rates.kernel_share:.0%} of its CPU time is the kernel's", "/proc/PID/stat")


def _read_host(case: Case) -> Iterator[Statement]:
    host = case.evidence.host
    match = re.search(r"avg10=(\d+(?:\.\d+)?)", host.get("pressure_memory", ""))
    if match is not None and float(match[1]) >= MIN_PRESSURE:
        yield Statement(f"something waited for memory in {float(match[1]):.0f} % of the last 10 s", "/proc/pressure/memory")
    used, limit = host.get("cgroup_memory_used", ""), host.get("cgroup_memory_limit", "")
    if used.isdecimal() and limit.isdecimal() and int(used) >= NEARLY_FULL * int(limit):
        yield Statement(f"its control group uses {int(used) >> 20} of {int(limit) >> 20} MiB", "control group")
    free, total = host.get("memory_available", ""), host.get("memory_total", "")
    if free.isdecimal() and total.isdecimal() and int(free) <= (1 - NEARLY_FULL) * int(total):
        yield Statement(f"{int(free) >> 20} of {int(total) >> 20} MiB of the machine's memory are left", "/proc/meminfo")
    swapped = sum(process.swap_bytes or 0 for process in case.processes)
    resident = sum(process.rss_bytes or 0 for process in case.processes)
    if swapped > max(64 << 20, 0.1 * resident):
        yield Statement(f"{swapped >> 20} MiB of the job are in swap", "/proc/PID/status")


def _explain(case: Case, status: Status, rates: _Rates, statements: list[Statement]) -> Diagnosis:
    process = next((one for one in case.processes if one.ref == rates.worst), None)
    thread = process.main_thread if process is not None else None
    frame = own_frame(thread.frames) if thread is not None else None
    culprit = Culprit(kind="process", pid=rates.worst.pid, frame=str(frame) if frame else None)
    return Diagnosis(
        cause=MemoryThrash.id,
        title="Memory is too small for the job",
        summary=f"PID {rates.worst.pid} fetches its own memory back again and again instead of working: "
        f"{statements[0].statement}, and {statements[-1].statement}; use a smaller batch or more memory.",
        status=status,
        confidence=CONFIDENCE[status],
        culprit=culprit,
        evidence=tuple(statements),
        refuted_by="memory becomes free and the faults go on, or the faults belong to a file that is read for the first time",
        remedies=(
            Remedy(
                id="smaller-batch",
                why="the same job started again would need the same memory again",
                kind="advice",
                advice="halve per_device_train_batch_size and double gradient_accumulation_steps, or use fewer workers",
            ),
        ),
        fingerprint=fingerprint(MemoryThrash.id, Culprit(kind="process"), thread.frames if thread is not None else ()),
    )
