"""Recorded runs of real Unsloth on an H100, as the samples that the judge would have seen.

A row of a recording has the totals of every process, the GPU's numbers, and the newest 160 characters of the output.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unsloth_watch.model.process import ProcessRef, ProcessSample
from unsloth_watch.model.sample import GpuSample, Look, OutputSample, Sample
from unsloth_watch.sense.output import OutputReader

TRACES = Path(__file__).parent / "data" / "traces"


def read_trace(name: str) -> Iterator[Sample]:
    """Yield the samples of one recording."""
    reader = OutputReader()
    before = 0
    with gzip.open(TRACES / f"unsloth-h100-{name}.jsonl.gz", "rt") as stream:
        for line in stream:
            row = json.loads(line)
            yield _sample(row, _output(reader, row, before))
            before = row["out"]


def _output(reader: OutputReader, row: dict[str, Any], before: int) -> OutputSample:
    fresh = f"\r{row['last']}\r".encode() if row["out"] > before else b""
    return reader.feed(fresh, row["out"], max(0, row["out"] - before - len(fresh)), False)


def _sample(row: dict[str, Any], output: OutputSample) -> Sample:
    processes = tuple(
        ProcessSample(
            ref=ProcessRef(p["pid"], p["pid"]),
            ppid=0,
            comm=p["name"],
            state=p["state"],
            utime_s=p["cpu"],
            stime_s=0.0,
            reaped_cpu_s=0.0,
            minflt=p["minflt"],
            majflt=p["majflt"],
            reaped_minflt=0,
            threads=p["thr"],
            rss_bytes=p["rss"] << 20,
            vctx=p["vctx"],
            nvctx=p["nvctx"],
            rchar=p["rchar"],
            wchar=p["wchar"],
            syscr=p["syscr"],
            syscw=0,
            read_bytes=p["rb"],
            write_bytes=p["wb"],
            has_gpu=True,
        )
        for p in row["procs"]
    )
    looks = ()
    stack = row.get("stack")
    if stack and ":" in stack[0] and processes:
        looks = (Look(processes[0].ref, hashlib.sha256(repr(stack).encode()).hexdigest()[:8], tuple(stack), True),)
    return Sample(at=row["t"], wall=row["t"], processes=processes, output=output, files=(), gpus=(_gpu(row["gpu"]),), looks=looks)


def _gpu(gpu: dict[str, float]) -> GpuSample:
    def known(name: str, factor: float = 1.0) -> float | None:
        value = gpu[name]
        return None if math.isnan(value) else value * factor

    return GpuSample(
        index=0,
        uuid="GPU-recorded",
        utilization=gpu["util"],
        memory_bytes=int(gpu["mem"]) << 20,
        power_w=gpu["power"],
        sm=known("sm_util"),
        tensor=known("any_tensor_util"),
        dram=known("dram_bw_util"),
        pcie_rx=known("pcie_rx_per_sec", 1e6),
        pcie_tx=known("pcie_tx_per_sec", 1e6),
        own_memory_bytes=int(gpu["mem"]) << 20,
    )
