"""What came of one run of a program of the zoo, as a row, and of all of them, as totals."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

import rivals


@dataclass
class Result:
    """One run of one program.

    Attributes:
        name: Program.
        is_hang: Whether it hangs.
        is_provable: As its head says.
        verdict: ``found``, ``missed``, ``premature`` (before the hang began), ``ok``, ``false kill`` or ``broken`` (the program
            itself did not do what it should).
        latency_s: From the hang's own moment to ``hang.detected``; None unless found.
        proven: Whether it was proven; None unless found.
        cause: Cause that was named.
        is_cause_right: Whether the head accepts it; None unless found.
        is_culprit_right: Whether culprit or summary holds one of the head's strings; None unless found.
        status: Exit status; None where the run was ended at its limit.
        left_over: Commands of processes that outlived the run.
        seconds: Length of the run.
        note: Culprit and summary, or what went wrong.
        place: Directory of the run where it was kept.
        rivals: What others said, by name.
    """

    name: str
    is_hang: bool
    is_provable: bool
    verdict: str = "broken"
    latency_s: float | None = None
    proven: bool | None = None
    cause: str | None = None
    is_cause_right: bool | None = None
    is_culprit_right: bool | None = None
    status: int | None = None
    left_over: tuple[str, ...] = ()
    seconds: float = 0.0
    note: str = ""
    place: str = ""
    rivals: dict[str, rivals.Opinion] = field(default_factory=dict)


def print_row(result: Result) -> None:
    """Print one result."""
    marks = ("-", "no", "yes")
    right = [marks[0 if value is None else 1 + value] for value in (result.proven, result.is_cause_right, result.is_culprit_right)]
    latency = "-" if result.latency_s is None else f"{result.latency_s:.1f}"
    left = f" LEFT OVER {len(result.left_over)}" if result.left_over else ""
    cells = f"{result.name:34} {result.verdict:10} {latency:>7} {right[0]:>6} {right[1]:>5} {right[2]:>7} {result.cause or '-':24}"
    print(f"{cells} {result.seconds:6.1f}{left}  {result.note[:200]}", flush=True)
    if result.rivals:
        print(f"{'':34} {rivals.describe(result.rivals)}", flush=True)


def summarize(results: list[Result]) -> dict[str, object]:
    """Return the totals."""
    hangs, healthy = [one for one in results if one.is_hang], [one for one in results if not one.is_hang]
    found = [one for one in hangs if one.verdict == "found"]
    provable = [one for one in found if one.is_provable]

    def median(chosen: list[Result]) -> str:
        times = sorted(one.latency_s for one in chosen if one.latency_s is not None)
        return f"{statistics.median(times):.1f} s (slowest {times[-1]:.1f} s)" if times else "-"

    return {
        "hangs found": f"{len(found)} of {len(hangs)}",
        "latency": median(found),
        "latency, proven": median([one for one in found if one.proven]),
        "latency, provable": median(provable),
        "latency, not provable": median([one for one in found if not one.is_provable]),
        "proven of provable": f"{sum(bool(one.proven) for one in provable)} of {sum(one.is_provable for one in hangs)}",
        "proven though not provable": sorted({one.name for one in found if one.proven and not one.is_provable}),
        "cause right": f"{sum(bool(one.is_cause_right) for one in found)} of {len(found)}",
        "culprit right": f"{sum(bool(one.is_culprit_right) for one in found)} of {len(found)}",
        "false kills": f"{sum(one.verdict == 'false kill' for one in healthy)} of {len(healthy)}",
        "missed": sorted({one.name for one in hangs if one.verdict == "missed"}),
        "premature": sorted({one.name for one in hangs if one.verdict == "premature"}),
        "falsely killed": sorted({one.name for one in healthy if one.verdict == "false kill"}),
        "broken": sorted({one.name for one in results if one.verdict == "broken"}),
        "left processes": sorted({one.name for one in results if one.left_over}),
    }
