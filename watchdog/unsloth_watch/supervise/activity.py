"""What a job is doing, in one sentence: its phase, who computes most, and where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from unsloth_watch.diagnose.frames import own_frame, read_look
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.model.sample import Look, Sample

_LEAST_SHARE = 0.01
"""Share of a core below which nobody computes."""


def describe_activity(looks: Sequence[Look], samples: Sequence[Sample], phase: str) -> str:
    """Return ``phase train; PID 12 used 96 % of a core, most often in step (train.py:88)``.

    Args:
        looks: Looks at the main threads, oldest first.
        samples: Samples over the same time, oldest first.
        phase: The judge's guess; ``unknown`` is not said.
    """
    shares = measure_shares(samples)
    busiest = max(shares, key=lambda ref: shares[ref], default=None)
    said = [f"phase {phase}"] if phase != "unknown" else []
    if busiest is not None and shares[busiest] >= _LEAST_SHARE:
        said.append(f"PID {busiest.pid} used {shares[busiest]:.0%} of a core{_say_place(looks, busiest)}")
    else:
        where = _say_place(looks, looks[0].ref) if looks else ""
        said.append(f"nobody computes{where.replace(', most often', '; the main thread is', 1)}")
    others = sum(1 for ref, share in shares.items() if ref != busiest and share >= _LEAST_SHARE)
    if others:
        said.append(f"{others} more {'processes compute' if others > 1 else 'process computes'}")
    return "; ".join(said)


def measure_shares(samples: Sequence[Sample]) -> dict[ProcessRef, float]:
    """Return the cores that each process used, of those that were there from the first sample to the last."""
    seen = [sample for sample in samples if sample.processes is not None]
    if len(seen) < 2 or seen[-1].at <= seen[0].at:
        return {}
    first = {process.ref: process.cpu_s for process in seen[0].processes or ()}
    span = seen[-1].at - seen[0].at
    last = [process for process in seen[-1].processes or () if process.ref in first]
    return {process.ref: (process.cpu_s - first[process.ref]) / span for process in last}


def _say_place(looks: Sequence[Look], ref: ProcessRef) -> str:
    frames = [own_frame(read_look(look)) for look in looks if look.ref == ref]
    places = Counter(f"{frame.function} ({frame.file}:{frame.line})" for frame in frames if frame is not None)
    return f", most often in {places.most_common(1)[0][0]}" if places else ""
