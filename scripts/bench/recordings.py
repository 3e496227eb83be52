"""What the judge and two rules of thumb say of the recorded Unsloth runs on an H100: whom they end, what they find, and when.

``python scripts/bench/recordings.py --json recordings.json``. No GPU is needed: ``tests/data/traces`` and ``tests/data/gpu/runs``
have the samples. Each attempt is judged alone, by everybody, from its first sample on; the first word counts, since it would end
the job. ``unsloth-watch`` is ``replay``.

Which attempts hang is known from the job and from nobody's verdict: ``gpu/finetune.py`` and ``gpu/held.py`` hang in the first
attempt alone, and say so in their last line, so that the newest output is the hang's moment (to a sample: 0.5 or 1 s). Who has not
spoken by the end of a recording missed the hang only if there was time left to speak; otherwise the recording was cut short.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import msgspec
from rivals import GPU_IDLE_PERCENT, Opinion, find_idle_gpu, find_silence, opinion_of
from table import add_json_option, print_table, write_json
from zoorun import PROJECT

# zoorun has made the directory of the tests known.
from recorded import TRACES, read_trace
from unsloth_watch.judge.rules import Rules
from unsloth_watch.model.sample import Sample
from unsloth_watch.supervise.replay import replay

RUNS = PROJECT / "tests" / "data" / "gpu" / "runs"
TRACE_PREFIX = "unsloth-h100-"
CUT_SHORT = "cut short"
LATE_S = 2.0
"""Seconds by which a word may come late: a reading of the card is up to two seconds old."""


@dataclass(frozen=True)
class Case:
    """One attempt of a recorded run.

    Attributes:
        name: Name of the recording with ``trace`` (of a run that nobody supervised) or the number of the attempt.
        samples: What was seen, oldest first.
        moment: When it began to hang, on the samples' clock; None if it is healthy.
    """

    name: str
    samples: tuple[Sample, ...]
    moment: float | None

    @property
    def seconds(self) -> float:
        """Length of the recording, seconds."""
        return self.samples[-1].at - self.samples[0].at

    @property
    def first_use_s(self) -> float | None:
        """Seconds until a card was first seen busy for 5 % or more of the time; None if none ever was."""
        busy = (
            sample.at for sample in self.samples if any((gpu.utilization or 0.0) >= GPU_IDLE_PERCENT for gpu in sample.gpus or ())
        )
        first = next(busy, None)
        return None if first is None else first - self.samples[0].at


@dataclass(frozen=True)
class Contestant:
    """Somebody who is asked.

    Attributes:
        name: What the table calls it.
        find: Returns when it would have ended the job, None if never.
        patience_s: Seconds after the moment of a hang by which it speaks, if it ever does.
    """

    name: str
    find: Callable[[Sequence[Sample]], float | None]
    patience_s: float


def list_contestants() -> list[Contestant]:
    """Return everybody who is asked, ours first."""
    return [
        # Who computes behind a broken rhythm is allowed twice the stall timeout.
        *(Contestant(f"unsloth-watch, {s} s", partial(find_hang, stall_s=s), 2.0 * s) for s in (20, 60)),
        *(Contestant(f"no output, {s} s", partial(find_silence, seconds=s), s) for s in (20, 60)),
        *(Contestant(f"GPU < 5 %, {s} s", partial(find_idle_gpu, seconds=s), s) for s in (20, 60)),
        # heyfey/kill-gpu-zombie-pod as it comes; NVML counts in whole percent.
        Contestant("GPU at 0 %, 90 s", partial(find_idle_gpu, seconds=90.0, percent=1.0), 90.0),
        # gpu_sentinel (PyPI) counts only once the card has been used; here one reading is enough for that.
        Contestant("GPU < 5 %, 20 s, once used", partial(find_idle_gpu, seconds=20.0, is_armed_by_use=True), 20.0),
    ]


def find_hang(samples: Sequence[Sample], stall_s: float) -> float | None:
    """Return when the judge first calls an attempt hung, None if it never does; the busy timeout is the default."""
    (attempt,) = replay(samples, Rules(stall_s=stall_s))
    return samples[0].at + attempt.hangs[0].at_s if attempt.hangs else None


def read_cases() -> Iterator[Case]:
    """Yield every attempt of every recording that has readings of a card."""
    for path in sorted(TRACES.glob(f"{TRACE_PREFIX}*.jsonl.gz")):
        name = path.name.removeprefix(TRACE_PREFIX).partition(".")[0]
        yield make_case(name, f"{name}, trace", tuple(read_trace(name)))
    for path in sorted(RUNS.glob("*.jsonl.gz")):
        name = path.name.partition(".")[0]
        with gzip.open(path) as lines:
            samples = [msgspec.json.decode(line, type=Sample) for line in lines]
        for attempt, group in itertools.groupby(samples, lambda sample: sample.attempt):
            yield make_case(name, f"{name}, attempt {attempt}", tuple(group))


def make_case(scenario: str, name: str, samples: tuple[Sample, ...]) -> Case:
    """Return the case of one attempt; the name of a scenario says what its job was told to do in its first attempt."""
    is_hang = not scenario.startswith("healthy") and samples[0].attempt == 1
    return Case(name, samples, find_last_output(samples) if is_hang else None)


def find_last_output(samples: Sequence[Sample]) -> float:
    """Return when the newest output was seen; the first sample's time if there was none."""
    at, printed = samples[0].at, 0
    for sample in samples:
        if sample.output is not None and sample.output.total_bytes > printed:
            at, printed = sample.at, sample.output.total_bytes
    return at


def ask(contestant: Contestant, case: Case) -> tuple[Opinion, float | None]:
    """Return what somebody makes of a case, and how many seconds into the recording it spoke."""
    fired_at = contestant.find(case.samples)
    opinion = opinion_of(is_hang=case.moment is not None, fired_at=fired_at, moment=case.moment)
    if opinion.verdict == "missed" and case.moment is not None:
        left_s = case.samples[-1].at - case.moment
        opinion = opinion if left_s >= contestant.patience_s + LATE_S else Opinion(CUT_SHORT)
    return opinion, None if fired_at is None else round(fired_at - case.samples[0].at, 1)


def describe(opinion: Opinion, fired_s: float | None) -> str:
    """Return a cell of the table."""
    if opinion.verdict == "found":
        return f"found +{opinion.latency_s:.1f}"
    return f"**ended** at {fired_s:.0f}" if fired_s is not None else opinion.verdict


def sum_up(opinions: Sequence[Opinion]) -> dict[str, object]:
    """Return the totals of one contestant; a hang that a recording is too short for is not counted."""
    count = Counter(one.verdict for one in opinions)
    latencies = [one.latency_s for one in opinions if one.latency_s is not None]
    return {
        "healthy": count["ok"] + count["false kill"],
        "false_kills": count["false kill"],
        "hangs": count["found"] + count["missed"] + count["premature"],
        "found": count["found"],
        "premature": count["premature"],
        "cut_short": count[CUT_SHORT],
        "latency_median_s": statistics.median(latencies) if latencies else None,
        "latency_slowest_s": max(latencies, default=None),
    }


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_json_option(parser)
    options = parser.parse_args()
    cases, contestants = sorted(read_cases(), key=lambda case: case.moment is None), list_contestants()
    said = {one.name: [ask(one, case) for case in cases] for one in contestants}
    totals = {name: sum_up([opinion for opinion, _ in words]) for name, words in said.items()}
    rows = [
        (
            case.name,
            f"{case.seconds:.0f}",
            "–" if case.first_use_s is None else f"{case.first_use_s:.0f}",
            "–" if case.moment is None else f"{case.moment - case.samples[0].at:.0f}",
            *(describe(*said[one.name][number]) for one in contestants),
        )
        for number, case in enumerate(cases)
    ]
    title = "Seconds: length of the recording, first use of the card, the hang, who ended the job too early; + counts from the hang"
    print_table(title, ("recording", "length", "first use", "hang", *(one.name for one in contestants)), rows)
    print_table(
        "Totals",
        ("", "healthy jobs ended", "ended before its hang", "hangs found", "cut short", "median (slowest), s"),
        [
            (
                name,
                f"{one['false_kills']} of {one['healthy']}",
                one["premature"],
                f"{one['found']} of {one['hangs']}",
                one["cut_short"],
                "–" if one["latency_median_s"] is None else f"{one['latency_median_s']:.1f} ({one['latency_slowest_s']:.1f})",
            )
            for name, one in totals.items()
        ],
    )
    recordings = [
        {
            "name": case.name,
            "seconds": round(case.seconds, 1),
            "first_use_s": None if case.first_use_s is None else round(case.first_use_s, 1),
            "hang_s": None if case.moment is None else round(case.moment - case.samples[0].at, 1),
            "said": {one.name: asdict(said[one.name][n][0]) | {"ended_s": said[one.name][n][1]} for one in contestants},
        }
        for n, case in enumerate(cases)
    ]
    write_json(options.json, "recordings", {"recordings": recordings, "totals": totals})


if __name__ == "__main__":
    main()
