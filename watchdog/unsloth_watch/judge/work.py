"""Work counters: which readings of the output say that the work got further.

A number that grows towards a total or by steps counts; the same line with another time or memory figure has no counter at all
(``sense`` leaves those out), and a line of a shape never seen before counts once: the program reached a new place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from unsloth_watch.judge.rules import CADENCE_FACTOR, CADENCE_INTERVALS, MOST_COUNTERS, MOST_SHAPES, WARM_UP_ADVANCES, Rules
from unsloth_watch.model.sample import INDEX, Reading
from unsloth_watch.model.verdict import Progress, Tier

METRICS = frozenset({"learning_rate", "lr", "grad_norm", "return"})
METRIC_WORDS = frozenset(
    {"loss", "nll", "elbo", "entropy", "perplexity", "ppl", "bpb", "bpc", "kl", "reward", "rewards", "accuracy", "acc", "auc", "f1"}
    | {"rmse", "mse", "mae", "logloss", "bleu", "wer", "cer", "score"}
)
"""Results of a step, by name or by a word of it (``policy_loss``): any new value says that a step was made, growing or not."""
NOISE = (
    frozenset({"attempt", "attempts", "retry", "retries", "retrying", "try", "tries", "poll", "polling", "ping"})
    | frozenset({"waited", "waiting", "elapsed", "heartbeat", "alive", "tick", "uptime", "sleeping", "timeout"})
    | frozenset({"seconds", "sec", "secs", "memory", "mem", "rss", "gpu", "cpu", "temp", "temperature", "port", "pid"})
)
"""Names under which numbers grow while nothing gets done."""
PASSES = (
    frozenset(
        {"step", "iter", "iteration", "it", "epoch", "batch", "minibatch", "microbatch", "micro", "mb", "idx", "index", "i", "n"}
    )
    | frozenset(
        {"sample", "example", "row", "record", "item", "image", "frame", "clip", "sequence", "prompt", "question", "problem"}
    )
    | frozenset({"token", "document", "doc", "page", "sentence", "pair", "file", "shard", "chunk", "part", "block", "segment"})
    | frozenset({"window", "layer", "tensor", "round", "episode", "rollout", "game", "trial", "fold", "candidate", "task", "query"})
)
"""Words (or their plurals) of a name whose number goes through the same values pass after pass. What has another name and falls
back, as a collector's objects or a queue's entries do, says nothing by rising again."""
_INTERVALS_KEPT = 50
_VALUES_KEPT = 8
_CLOCK_ADVANCES = 4
"""Advances after which a counter that keeps step with the clock is taken for one."""
_LEAPS = 3
"""Rises on end after which a bare number is taken for an index, though it goes on in leaps: of many lines the newest are read."""
_PASS_RISES, _PASS_S = 4, 3.0
"""Rises on end, and seconds, of a pass of a number without a total; what falls back to its start afterwards begins the next. What
swings seldom rises so often, and does not fall at once; a table of devices is printed in no time, however often."""
_WORD = re.compile(r"[a-z]+")


class Counter(msgspec.Struct, frozen=True):
    """One counter: the same name in lines of the same shape.

    Attributes:
        name: As the output calls it.
        best: Furthest value of this pass.
        total: What it counts towards.
        advanced_at: When it last advanced, effective seconds.
        started_at: When this pass began.
        started_from: Value then.
        advances: How often it advanced.
        intervals: Seconds between advances, newest last, without the first ones: they hold compilation and warm-up.
        recent: Newest values of a metric; the newest one alone of a number without a total.
        rises: How often such a number rose on end.
    """

    name: str
    best: float
    total: float | None
    advanced_at: float
    started_at: float
    started_from: float
    advances: int = 0
    intervals: tuple[float, ...] = ()
    recent: tuple[float, ...] = ()
    rises: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether it stands at its total: then no next step is due."""
        return self.total is not None and self.best >= self.total

    @property
    def is_nearly_complete(self) -> bool:
        """Whether it got so far that a fall back means the next pass."""
        return self.total is not None and self.best >= 0.95 * self.total

    @property
    def is_clock(self) -> bool:
        """Whether it merely counts seconds (or milliseconds): it keeps step with the time that passed."""
        if len(self.intervals) < _CLOCK_ADVANCES or self.total is not None:
            return False
        elapsed, counted = self.advanced_at - self.started_at, self.best - self.started_from
        return any(abs(counted - elapsed * unit) <= 0.05 * elapsed * unit for unit in (1.0, 1000.0))

    def rhythm_broke_at(self, rules: Rules) -> float | None:
        """When the next advance was due at the very latest, effective seconds; None without a believable rhythm."""
        if len(self.intervals) < CADENCE_INTERVALS or self.is_complete:
            return None
        return self.advanced_at + max(rules.rhythm_s, CADENCE_FACTOR * max(self.intervals))


class WorkMemory(msgspec.Struct, frozen=True):
    """Counters by key, the shapes seen, and which counter advanced last."""

    counters: Mapping[str, Counter] = {}
    shapes: frozenset[str] = frozenset()
    leading: str | None = None


def weigh_readings(
    memory: WorkMemory, readings: tuple[Reading, ...], at: float, since: float | None = None
) -> tuple[WorkMemory, list[Progress]]:
    """Return the memory after these readings, and the progress that they show.

    Args:
        memory: From the previous sample.
        readings: What was printed since then.
        at: Now, effective seconds.
        since: When the previous sample was taken; None for the first: nothing is known of when its lines were printed.
    """
    if not readings:
        return memory, []
    counters = dict(memory.counters)
    shapes = set(memory.shapes)
    leading = memory.leading
    found: list[Progress] = []
    moved: dict[str, tuple[float, Counter]] = {}
    for reading in readings:
        if reading.shape not in shapes and len(shapes) < MOST_SHAPES:
            shapes.add(reading.shape)
            found.append(Progress(at, Tier.DATA, "output", "a line of a kind not seen before"))
        if not reading.name or reading.name in NOISE:
            continue
        key = f"{reading.shape}/{reading.name}/{reading.total}"
        before = counters.get(key)
        after = _advance(before, reading, at, since)
        if after is None:
            continue
        # The one that last had news longest ago is the first, and goes where there are too many.
        counters.pop(key, None)
        if len(counters) >= MOST_COUNTERS:
            counters.pop(next(iter(counters)))
        counters[key] = after
        if before is not None and after.advanced_at == at and not after.is_clock:
            # A bare number has no rhythm that anybody promised.
            leading = leading if after.name.startswith(INDEX) else key
            moved[key] = moved[key][0] if key in moved else before.best, after
    for best, after in moved.values():  # one word for all that a counter did since the sample before
        goal = f" of {after.total:g}" if after.total is not None else ""
        name = "a number of its lines" if after.name.startswith(INDEX) else after.name
        found.append(Progress(at, Tier.WORK, "counter", f"{name} {best:g} → {after.best:g}{goal}"))
    return WorkMemory(counters, frozenset(shapes), leading), found


def _advance(before: Counter | None, reading: Reading, at: float, since: float | None) -> Counter | None:
    """Return the counter after ``reading``, or None where it says nothing new."""
    if before is None:
        return Counter(reading.name, reading.value, reading.total, at, at, reading.value, recent=(reading.value,))
    if _is_metric(reading.name):
        recent = (*before.recent, reading.value)[-_VALUES_KEPT:]
        return _moved(before, reading.value, at, since, recent) if reading.value not in before.recent else None
    if reading.total is None:
        return _advance_open(before, reading.value, at, since)
    if reading.value > before.best:
        return _moved(before, reading.value, at, since, before.recent)
    if reading.value < before.best and before.is_nearly_complete:
        # A bar that was full (Trainer's evaluation bar is last drawn at 98 %) starts again: the next pass. The pause between passes
        # is no step of its rhythm.
        return msgspec.structs.replace(before, best=reading.value, advanced_at=at, started_at=at, started_from=reading.value)
    return None


def _is_metric(name: str) -> bool:
    return name in METRICS or not METRIC_WORDS.isdisjoint(_WORD.findall(name))


def _is_passing(name: str) -> bool:
    return name.startswith(INDEX) or not PASSES.isdisjoint(
        form for word in _WORD.findall(name) for form in (word, word.rstrip("s"))
    )


def _advance_open(before: Counter, value: float, at: float, since: float | None) -> Counter | None:
    """Return a counter without a total: it advances beyond its best of this pass, a bare number by one, or line after line.

    What swings, as a load or a queue does, sets records ever more rarely.
    """
    last = before.recent[-1]
    if value == last:
        return None
    rises = before.rises + 1 if value > last else 0
    after = msgspec.structs.replace(before, recent=(value,), rises=rises)
    if value > before.best:
        is_next = not before.name.startswith(INDEX) or value == before.best + 1 or rises >= _LEAPS
        return _moved(after, value, at, since, after.recent) if is_next else msgspec.structs.replace(after, best=value)
    is_pass = before.rises >= _PASS_RISES and before.advanced_at - before.started_at >= _PASS_S
    if is_pass and value <= before.started_from and _is_passing(before.name):
        return msgspec.structs.replace(after, best=value, started_at=at, started_from=value)
    return after


def _moved(before: Counter, value: float, at: float, since: float | None, recent: tuple[float, ...]) -> Counter:
    intervals = before.intervals
    # Several advances in one sample are at most as far apart as the samples are.
    interval = at - before.advanced_at if at > before.advanced_at else at - since if since is not None else 0.0
    if interval > 0 and before.advances >= WARM_UP_ADVANCES:
        intervals = (*intervals, interval)[-_INTERVALS_KEPT:]
    return msgspec.structs.replace(
        before, best=value, advanced_at=at, advances=before.advances + 1, intervals=intervals, recent=recent
    )


def broken_rhythm(memory: WorkMemory, rules: Rules, at: float) -> Counter | None:
    """Return the counter whose rhythm has broken in mid-way, if the one that led has."""
    counter = memory.counters.get(memory.leading) if memory.leading is not None else None
    if counter is None:
        return None
    due = counter.rhythm_broke_at(rules)
    return counter if due is not None and at >= due else None
