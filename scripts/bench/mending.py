"""How well hangs are mended: runs hanging programs of the zoo under unsloth-watch, and says what became of each and what it cost.

``python scripts/bench/mending.py --stall 6 --only 'hang_pipe*' --json out.json``

Each program runs twice: under unsloth-watch as it is, and under a **blind relauncher**, which is the same detection without any
repair or remedy: ``--on-hang stop --no-live-repair``, and the unchanged command again, as often as unsloth-watch may.

Whether a fault comes back with the next attempt follows from the program's head: what a relaunch or a continuation cures was a
matter of chance (``ZOO_HANG=first``: only the first attempt hangs); a full pipe, a stale lock, a silent server or a question
are there again in every attempt.

``verdict to work`` are the seconds from the first ``hang.detected`` to the first output that is new work (a step beyond all earlier
ones, or the end); ``redone`` are the steps that were printed a second time.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import detection
import table
import zoorun

import environments
from zoo_reading import Program, read_zoo

CHANCE = frozenset({"relaunch", "continue"})
"""Cures of faults that do not come back by themselves."""
OUTCOMES = (
    "live", "first relaunch", "later relaunch", "ended", "given up", "given up rightly", "ended rightly", "not found", "broken"
)  # fmt: skip
CURED = ("live", "first relaunch", "later relaunch")
RIGHTLY = ("given up rightly", "ended rightly")
RESTARTS = 3
"""Relaunches that either may make."""
_STEP = re.compile(rb"step (\d+)/")


@dataclass
class Mended:
    """What became of one program under one supervisor.

    Attributes:
        name: Program.
        cause: The first of those that its head names.
        cure: As its head says.
        by: ``unsloth-watch`` or ``blind``.
        outcome: ``live``, ``first relaunch``, ``later relaunch``, ``ended`` (the program itself failed, without a hang),
            ``given up``, ``given up rightly`` (whom it waits for is outside and never answers or lets go, and neither got past
            that), ``ended rightly`` (it asks a person, has no default, and fails with its own error where the input is empty; blind
            it asks until it is given up), ``not found`` (no hang was seen) or ``broken``.
        remedies: What was applied, in order.
        to_work_s: Seconds from the verdict to new work; None where there was none.
        redone: Steps printed twice.
        attempts: Starts of the command.
        seconds: Length of the run.
        status: Exit status.
    """

    name: str
    cause: str
    cure: str
    by: str
    outcome: str = "broken"
    remedies: tuple[str, ...] = ()
    to_work_s: float | None = None
    redone: int = 0
    attempts: int = 1
    seconds: float = 0.0
    status: int | None = None


class Tail:
    """Reads what a program prints as it comes, and notes when new work shows.

    Args:
        path: The file.
        furthest: Last step of an earlier attempt.

    Attributes:
        moments: When new work showed, Unix seconds.
        furthest: Last step so far.
        redone: Steps that had been printed before.
    """

    def __init__(self, path: Path, furthest: int = 0) -> None:
        self.moments: list[float] = []
        self.furthest, self.redone = furthest, 0
        self._path = path
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        offset, rest = 0, b""
        while True:
            is_last = self._ended.is_set()
            with contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:
                file.seek(offset)
                data = file.read()
                offset += len(data)
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._weigh(line)
            if is_last:
                return
            self._ended.wait(0.05)

    def _weigh(self, line: bytes) -> None:
        step = _STEP.search(line)
        if step is not None and int(step[1]) <= self.furthest:
            self.redone += 1
        elif step is not None or b"ZOO DONE" in line:
            self.furthest = int(step[1]) if step is not None else self.furthest
            self.moments.append(time.time())

    def close(self) -> None:
        """Read to the end."""
        self._ended.set()
        self._thread.join()


def run_watched(program: Program, stall_s: float, place: Path) -> Mended:
    """Run a program under unsloth-watch, as a user would."""
    result, began = Mended(program.name, program.causes[0], program.cure, "unsloth-watch"), time.monotonic()
    run, tail = prepare(program, stall_s, place)
    result.status = attend(run, [*command_of(stall_s, place / "run", "--max-restarts", str(RESTARTS)), *run.command], tail)
    events = detection.read_events(place / "run")
    result.remedies = tuple(str(event["remedy"]) for event in events if event["event"] == "remedy.applied")
    result.attempts = sum(event["event"] == "attempt.started" for event in events)
    verdicts = [moment(event) for event in events if event["event"] == "hang.detected"]
    is_live = any(event["event"] == "hang.repaired" for event in events)
    conclude(result, [tail], verdicts[0] if verdicts else None, began, is_live=is_live)
    return result


def run_blindly(program: Program, stall_s: float, place: Path) -> Mended:
    """Run a program under the same detection, with the unchanged command again after each hang."""
    result, began, verdict = Mended(program.name, program.causes[0], program.cure, "blind"), time.monotonic(), None
    tails: list[Tail] = []
    for attempt in range(1, RESTARTS + 2):
        there = place / str(attempt)
        run, tail = prepare(program, stall_s, there, furthest=tails[-1].furthest if tails else 0)
        if not program.outside:
            # What one attempt leaves on the disk, the next one finds: a stale lock above all.
            run.environment["ZOO_DIR"] = str(place / "1" / "zoo")
        tails.append(tail)
        # The program is told the number of the attempt, as unsloth-watch would tell it.
        words = [
            *command_of(stall_s, there / "run", "--on-hang", "stop", "--no-live-repair"),
            "env",
            f"UNSLOTH_WATCH_ATTEMPT={attempt}",
        ]
        result.status = attend(run, [*words, *run.command], tail)
        result.attempts = attempt
        hangs = [moment(event) for event in detection.read_events(there / "run") if event["event"] == "hang.detected"]
        verdict = verdict or (hangs[0] if hangs else None)
        if result.status != 124:
            break
    conclude(result, tails, verdict, began, is_live=False)
    return result


def prepare(program: Program, stall_s: float, place: Path, furthest: int = 0) -> tuple[zoorun.Run, Tail]:
    """Return a program's run, whose fault comes back or not as its head says, and the reader of what it prints."""
    run = zoorun.Run(program, stall_s, place)
    if program.cure in CHANCE:
        run.environment["ZOO_HANG"] = "first"
    return run, Tail(place / "printed", furthest)


def command_of(stall_s: float, records: Path, *options: str) -> list[str]:
    """Return the supervisor's command up to the ``--``."""
    busy_s = zoorun.BUSY_FACTOR * stall_s
    timing = ["--stall-timeout", f"{stall_s:g}s", "--busy-timeout", f"{busy_s:g}s", "--grace", "2s"]
    return [str(detection.WATCH), *timing, *options, "--run-dir", str(records), "--"]


def attend(run: zoorun.Run, command: list[str], tail: Tail) -> int | None:
    """Run a command to its end; return its status, None where it had to be ended at the limit."""
    process = run.start(command)
    try:
        return process.wait((RESTARTS + 1) * run.limit_s)
    except subprocess.TimeoutExpired:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        return None
    finally:
        run.close(process)
        tail.close()


def moment(event: dict[str, object]) -> float:
    """Return an event's time, Unix seconds."""
    return datetime.fromisoformat(str(event["timestamp"]).replace("Z", "+00:00")).timestamp()


def conclude(result: Mended, tails: list[Tail], verdict: float | None, began: float, *, is_live: bool) -> None:
    """Say in one word what became of a program, and what it cost."""
    result.seconds = round(time.monotonic() - began, 1)
    result.redone = sum(tail.redone for tail in tails)
    if result.status is None:
        result.outcome = "broken"
    elif verdict is None:
        result.outcome = "not found"
    elif result.status == 124:
        result.outcome = "given up"
    elif result.status != 0:
        result.outcome = "ended"
    elif result.attempts == 1:
        result.outcome = "live" if is_live else "broken"
    else:
        result.outcome = "first relaunch" if result.attempts == 2 else "later relaunch"
    later = [moment for tail in tails for moment in tail.moments if verdict is not None and moment > verdict]
    if verdict is not None and result.status == 0:
        # A program that prints neither steps nor its end has done its work when the run ends.
        result.to_work_s = round((later[0] if later else time.time()) - verdict, 1)


def summarize(results: list[Mended]) -> dict[str, dict[str, object]]:
    """Return by supervisor how many came to which outcome, and the medians of what it cost."""
    totals: dict[str, dict[str, object]] = {}
    for by in dict.fromkeys(result.by for result in results):
        own = [result for result in results if result.by == by]
        counts = Counter(result.outcome for result in own)
        hung = len(own) - counts["not found"] - counts["broken"] - sum(counts[name] for name in RIGHTLY)
        costs = [one.to_work_s for one in own if one.to_work_s is not None]
        at_once = counts["live"] + counts["first relaunch"]
        totals[by] = {
            **{name: counts[name] for name in OUTCOMES if counts[name]},
            "cured at the first try": f"{at_once} of {hung} that can be cured",
            "verdict to work, median s": round(table.median(costs), 1) if costs else None,
            "steps redone": sum(one.redone for one in own),
        }
    return totals


def judge_together(program: Program, results: list[Mended]) -> None:
    """Say where nothing could have been done: what neither supervisor got past, for a reason that lies outside of the program."""
    outcomes = {result.by: result.outcome for result in results}
    for result in results:
        if program.outside and set(outcomes.values()) == {"given up"}:
            result.outcome = "given up rightly"
        elif "stdin-wait" in program.causes and outcomes.get("unsloth-watch") == "ended" and outcomes.get("blind") == "given up":
            result.outcome = "ended rightly" if result.by == "unsloth-watch" else "given up rightly"


CAUSES_HEAD = (
    "cause", "programs", "live", "first relaunch", "later", "rightly none", "not cured", "to work, s", "redone",
    "blind: first", "later", "rightly none", "not cured", "to work, s", "redone",
)  # fmt: skip


def tell_causes(results: list[Mended]) -> list[tuple[object, ...]]:
    """Return a row of `CAUSES_HEAD` for each cause, the commonest first."""
    causes = Counter(result.cause for result in results if result.by == "unsloth-watch")
    return [
        (cause, count, *_count(cause, "unsloth-watch", results), *_count(cause, "blind", results)[1:])
        for cause, count in sorted(causes.items(), key=lambda pair: (-pair[1], pair[0]))
    ]


def _count(cause: str, by: str, results: list[Mended]) -> tuple[object, ...]:
    own = [result for result in results if (result.cause, result.by) == (cause, by)]
    counts = Counter(result.outcome for result in own)
    rightly = sum(counts[name] for name in RIGHTLY)
    cured = tuple(counts[name] for name in CURED)
    costs = [one.to_work_s for one in own if one.to_work_s is not None]
    work = round(table.median(costs), 1) if costs else "–"
    return (*cured, rightly, len(own) - sum(cured) - rightly, work, sum(one.redone for one in own))


def main() -> int:
    """Run the programs, print one row each, the causes and the totals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stall", type=float, default=6.0, metavar="SECONDS", help="stall timeout")
    parser.add_argument("--only", nargs="+", default=[], metavar="GLOB", help="programs")
    parser.add_argument("--jobs", type=int, default=1, help="programs at a time")
    parser.add_argument("--no-blind", action="store_true", help="leave the blind relauncher out")
    table.add_json_option(parser)
    options = parser.parse_args()
    programs = [
        one
        for one in read_zoo()
        if one.is_hang and (not options.only or any(fnmatch.fnmatch(one.name, glob) for glob in options.only))
    ]
    if not programs:
        parser.error(f"no hanging program is called {' or '.join(options.only)}")
    if any(program.needs for program in programs):
        environments.python_of("modern")
    place = Path(tempfile.mkdtemp(prefix="zoo-mending-"))

    def one(program: Program) -> list[Mended]:
        kinds = [run_watched] if options.no_blind else [run_watched, run_blindly]
        results = [kind(program, options.stall, place / f"{program.name}-{kind.__name__}") for kind in kinds]
        judge_together(program, results)
        for result in results:
            told = f"{result.name}: {result.by}: {result.outcome} ({', '.join(result.remedies) or 'nothing'}), {result.seconds:g} s"
            print(told, file=sys.stderr, flush=True)
        return results

    try:
        with ThreadPoolExecutor(options.jobs) as pool:
            results = [result for found in pool.map(one, programs) for result in found]
    finally:
        shutil.rmtree(place, ignore_errors=True)
    table.print_table(
        f"stall timeout {options.stall:g} s, {RESTARTS} relaunches at most",
        ("program", "cure", "by", "outcome", "applied", "verdict to work, s", "redone", "attempts", "run, s"),
        [
            (one.name, one.cure, one.by, one.outcome, ", ".join(one.remedies) or "–",
             "–" if one.to_work_s is None else one.to_work_s, one.redone, one.attempts, one.seconds)
            for one in results
        ],
    )  # fmt: skip
    table.print_table("by cause", CAUSES_HEAD, tell_causes(results))
    totals = summarize(results)
    for by, numbers in totals.items():
        print(f"\n{by}: " + ", ".join(f"{name} {value}" for name, value in numbers.items()))
    rows = [asdict(result) for result in results]
    table.write_json(options.json, "mending", {"stall_s": options.stall, "totals": totals, "results": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
