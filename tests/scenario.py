"""Scenarios for the judge: samples of jobs that were never run, replayed without waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from unsloth_watch.judge.memory import Memory
from unsloth_watch.judge.rules import Rules
from unsloth_watch.judge.verdict import judge
from unsloth_watch.model.process import ProcessRef, ProcessSample
from unsloth_watch.model.sample import OutputSample, Reading, Sample
from unsloth_watch.model.verdict import State, Verdict

QUICK = Rules(stall_s=10.0, busy_s=1800.0)
ROOT = ProcessRef(100, 1)


def process(pid: int = 100, **changes: Any) -> ProcessSample:
    """A sleeping process that does nothing, apart from ``changes``."""
    plain = ProcessSample(
        ref=ProcessRef(pid, 1), ppid=1, comm="python", state="S", utime_s=5.0, stime_s=0.0, reaped_cpu_s=0.0, minflt=1000, majflt=0,
        reaped_minflt=0, threads=1, rss_bytes=500 << 20, vctx=0, nvctx=0, rchar=0, wchar=0, syscr=0, syscw=0, read_bytes=0,
        write_bytes=0, has_gpu=False,
    )  # fmt: skip
    return msgspec.structs.replace(plain, **changes)


def sample(at: float, *processes: ProcessSample, **more: Any) -> Sample:
    """A sample with all senses present."""
    more.setdefault("output", OutputSample(0, 0))
    more.setdefault("files", ())
    more.setdefault("gpus", ())
    return Sample(at=at, wall=at, processes=processes or (process(),), **more)


def replay(samples: Iterable[Sample], rules: Rules = QUICK) -> Iterator[Verdict]:
    """Yield the verdict of each sample."""
    memory = Memory()
    for one in samples:
        memory, verdict = judge(memory, one, rules)
        yield verdict


def hung_at(make: Callable[[float], Sample], seconds: float, rules: Rules = QUICK, every: float = 1.0) -> float | None:
    """Return when a job that ``make`` describes is first called hung, None if it is not within ``seconds``."""
    ticks = (make(i * every) for i in range(round(seconds / every) + 1))
    return next((verdict.at for verdict in replay(ticks, rules) if verdict.state is State.HUNG), None)


def reading(value: float, total: float | None = None, name: str = "n/total", shape: str = "aaaaaaaa") -> OutputSample:
    """Output with one counter."""
    return OutputSample(0, 0, (Reading(shape, name, value, total),))
