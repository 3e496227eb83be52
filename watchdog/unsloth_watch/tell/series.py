"""The signals of a report: samples as series over the seconds before the verdict, ready to plot."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from unsloth_watch.model.evidence import DeviceEvidence
from unsloth_watch.model.sample import Sample
from unsloth_watch.model.verdict import Verdict

POINTS_LIMIT = 240
"""Points of a series: a plot is 540 pixels wide, and a report of six series stays below 20 kB."""
ROWS_LIMIT = 20_000
"""Processes in all samples together that are kept for the plots: 10 MB. A capture of 1,000 processes
took 80 MB without it, 38 MB with it."""
_LEAST_POINTS = 24
"""Samples that are kept however many processes are in each."""
_LEAST_SPAN_S = 120.0
Value = float | None


def build_signals(samples: Sequence[Sample], verdict: Verdict, suspected_at: float | None = None) -> dict[str, Any]:
    """Return the time axis, the series and the marks.

    Args:
        samples: Oldest first.
        verdict: The verdict; its ``at`` is second 0 of the axis.
        suspected_at: When the job was first suspected, monotonic seconds.
    """
    kept = _select(samples, verdict)
    times = [round(sample.at - verdict.at, 2) for sample in kept]
    series = [
        _series("cpu", "CPU", "cores", _rates(kept, _cpu_increase)),
        _series("io", "Read and written", "B/s", _rates(kept, _io_increase)),
        _series("storage", "Storage traffic", "B/s", _rates(kept, _storage_increase)),
        _series("output", "Output", "B/s", _rates(kept, _output_increase)),
        _series("memory", "Resident memory", "B", [_memory(sample) for sample in kept]),
        _series("gpu", "GPU utilisation", "%", [_gpu(sample, "utilization", max) for sample in kept]),
        _series("gpu_dram", "GPU memory traffic", "% of peak", [_gpu(sample, "dram", max) for sample in kept]),
        _series("gpu_tensor", "GPU tensor cores", "% of peak", [_gpu(sample, "tensor", max) for sample in kept]),
        _series("gpu_pcie", "GPU PCIe traffic", "B/s", [_add_rates(sample) for sample in kept]),
        _series("gpu_power", "GPU power", "W", [_gpu(sample, "power_w", sum) for sample in kept]),
        _series("gpu_memory", "GPU memory", "B", [_gpu(sample, "memory_bytes", sum) for sample in kept]),
    ]
    return {
        "unit": "seconds before the verdict",
        "times": times,
        "series": [one for one in series if any(value is not None for value in one["values"])],
        "quiet_from": round(-verdict.quiet_s if verdict.last_progress is None else verdict.last_progress.at - verdict.at, 2),
        "marks": _marks(verdict, suspected_at),
    }


def keep_plotted(samples: Iterable[Sample], verdict: Verdict) -> tuple[Sample, ...]:
    """Return the samples that a report plots, thinned while they are read; the last one stays.

    Args:
        samples: Of the whole run, oldest first.
        verdict: What the report is about.
    """
    kept: list[Sample] = []
    newest, step, rows = None, 1, 0
    inside = (sample for sample in samples if verdict.at - _span(verdict) <= sample.at <= verdict.at)
    for number, sample in enumerate(inside):
        newest = sample
        if number % step:
            continue
        kept.append(sample)
        rows += len(sample.processes or ())
        if len(kept) >= 2 * POINTS_LIMIT or (rows > ROWS_LIMIT and len(kept) > _LEAST_POINTS):
            kept, step = kept[::2], 2 * step
            rows = sum(len(one.processes or ()) for one in kept)
    return tuple(kept) if newest is None or kept[-1] is newest else (*kept, newest)


def _span(verdict: Verdict) -> float:
    """Return the seconds before the verdict that are plotted: twice the quiet time, at least two minutes."""
    return max(2.0 * verdict.quiet_s, _LEAST_SPAN_S)


def _marks(verdict: Verdict, suspected_at: float | None) -> list[dict[str, Any]]:
    marks = [{"at": 0.0, "id": "verdict", "label": "verdict"}]
    if suspected_at is not None:
        marks.insert(0, {"at": round(suspected_at - verdict.at, 2), "id": "suspected", "label": "suspected"})
    if verdict.last_progress is not None:
        marks.insert(0, {"at": round(verdict.last_progress.at - verdict.at, 2), "id": "progress", "label": "last progress"})
    return marks


def _select(samples: Sequence[Sample], verdict: Verdict) -> list[Sample]:
    """Take what is in the span, thinned to ``POINTS_LIMIT``; the last sample stays."""
    inside = [sample for sample in samples if verdict.at - _span(verdict) <= sample.at <= verdict.at + 1.0]
    step = max(1, -(-len(inside) // POINTS_LIMIT))
    return inside[::-1][::step][::-1]


def _series(name: str, title: str, unit: str, values: Sequence[Value]) -> dict[str, Any]:
    return {"id": name, "title": title, "unit": unit, "values": [None if value is None else round(value, 3) for value in values]}


def _rates(samples: Sequence[Sample], increase: Callable[[Sample, Sample], Value]) -> list[Value]:
    values: list[Value] = [None] if samples else []
    for before, after in itertools.pairwise(samples):
        seconds = after.at - before.at - after.gap_s
        amount = increase(before, after)
        values.append(None if amount is None or seconds <= 0 else max(amount, 0.0) / seconds)
    return values


def _cpu_increase(before: Sample, after: Sample) -> Value:
    return _process_increase(before, after, lambda process: process.cpu_s)


def _io_increase(before: Sample, after: Sample) -> Value:
    return _process_increase(before, after, lambda process: _add(process.rchar, process.wchar))


def _storage_increase(before: Sample, after: Sample) -> Value:
    return _process_increase(before, after, lambda process: _add(process.read_bytes, process.write_bytes))


def _process_increase(before: Sample, after: Sample, read: Callable[[Any], Value]) -> Value:
    """Sum the increase over processes that are in both samples; new ones count from zero, unreadable ones not at all."""
    if before.processes is None or after.processes is None:
        return None
    earlier = {process.ref: read(process) for process in before.processes}
    total: Value = None
    for process in after.processes:
        value = read(process)
        start = earlier.get(process.ref, 0.0)
        if value is not None and start is not None:
            total = (total or 0.0) + max(value - start, 0.0)
    return total


def _output_increase(before: Sample, after: Sample) -> Value:
    if before.output is None or after.output is None:
        return None
    return float(after.output.total_bytes - before.output.total_bytes)


def _memory(sample: Sample) -> Value:
    return None if sample.processes is None else float(sum(process.rss_bytes for process in sample.processes))


def _gpu(sample: Sample, field: str, combine: Callable[[list[float]], float]) -> Value:
    values = [value for gpu in sample.gpus or () if (value := getattr(gpu, field)) is not None]
    return float(combine(values)) if values else None


def _add_rates(sample: Sample) -> Value:
    """Return the PCIe traffic of all devices, both ways."""
    known = [gpu.pcie_rx + gpu.pcie_tx for gpu in sample.gpus or () if gpu.pcie_rx is not None and gpu.pcie_tx is not None]
    return sum(known) if known else None


def _add(first: int | None, second: int | None) -> Value:
    return None if first is None or second is None else float(first + second)


def latest_gpus(samples: Sequence[Sample]) -> list[Mapping[str, Any]]:
    """Return the devices of the newest sample that knows them, as plain data."""
    for sample in reversed(samples):
        if sample.gpus is not None:
            return [{name: getattr(gpu, name) for name in gpu.__struct_fields__} for gpu in sample.gpus]
    return []


def merge_devices(sampled: Sequence[Mapping[str, Any]], devices: Sequence[DeviceEvidence]) -> list[dict[str, Any]]:
    """Return one row a device: what was sampled last, who uses it, what is wrong with it, and its whole record."""
    rows = {row["uuid"]: dict(row) for row in sampled}
    for device in devices:
        row = rows.setdefault(device.uuid, {"index": device.index, "uuid": device.uuid})
        row["problems"] = list(device.problems)
        row["processes"] = [
            f"PID {process.pid} {process.name or '(not of this PID namespace)'}"
            + ("" if process.memory_bytes is None else f" {process.memory_bytes >> 20} MiB")
            for process in device.processes
        ]
        row["record"] = dict(device.facts)
    return [{name: value for name, value in row.items() if value is not None} for row in rows.values()]
