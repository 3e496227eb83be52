"""How well hangs are found: runs the zoo under unsloth-watch, and says what was found, when, why, and who was killed wrongly.

``python scripts/bench/detection.py --stall 20s --json out.json``; ``--only 'hang_pool*'``; ``--unsupervised`` checks the zoo
itself: every program alone, the hanging ones looked at with py-spy, the healthy ones to their end. ``--rules`` lets programs hang
for two stall timeouts and says what two rules of thumb would have said of the same runs; ``--peers`` runs every program three times
more, below torchrun and ft_launcher: see ``rivals.py``.

The moment of a hang is printed by the program (CLOCK_MONOTONIC, one clock for the machine) and joined to the events' wall time with
the offset at that moment. A healthy program that ends with another status than 0, or about which ``hang.detected`` is said, counts
as a false kill. Processes of a run are known by a variable in their environment, so that what is left over is found wherever it
was reparented to, and ended by PID.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import rivals
from alone import check_alone
from zooresult import Result, print_row, summarize
from zoorun import BUSY_FACTOR, Run, suspend, tail

# zoorun has made both directories known.
import environments
from zoo_reading import Program, read_zoo

WATCH = Path(sys.executable).with_name("unsloth-watch")


def watch_command(stall_s: float, options: list[str], records: Path, on_hang: str = "stop") -> list[str]:
    """Return the supervisor's command up to the ``--``."""
    timing = ["--stall-timeout", f"{stall_s:g}s", "--busy-timeout", f"{BUSY_FACTOR * stall_s:g}s", "--grace", "2s"]
    # A hang that is repaired in place would not end with status 124; what is measured here is that it is found.
    return [str(WATCH), *timing, "--on-hang", on_hang, "--no-live-repair", *options, "--run-dir", str(records), "--"]


def supervise(program: Program, stall_s: float, place: Path, options: list[str], *, with_rules: bool = False) -> Result:
    """Run a program under unsloth-watch and judge what it said.

    Args:
        program: What to run.
        stall_s: Stall timeout, seconds.
        place: An empty directory.
        options: More options of unsloth-watch.
        with_rules: Whether a hang goes on until the rules of thumb have had their say.
    """
    run = Run(program, stall_s, place)
    records = place / "run"
    command = [*watch_command(stall_s, options, records, "report" if with_rules else "stop"), *run.command]
    result = Result(program.name, program.is_hang, program.is_provable, place=str(place))
    offset, start = time.time() - time.monotonic(), time.monotonic()
    process = run.start(command)
    try:
        if program.actions == "stop-continue":
            suspend(run, stall_s)
        if with_rules and program.is_hang:
            result.status, _ = rivals.wait_for_end(run, process)
            process.terminate()
            process.wait(15)
        else:
            result.status = process.wait(run.limit_s)
    except subprocess.TimeoutExpired:
        result.note = f"not ended after {run.limit_s:.0f} s"
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
    finally:
        result.seconds = round(time.monotonic() - start, 1)
        result.left_over = run.close(process)
    assess(result, program, run, read_events(records), offset, is_ended=not with_rules)
    if with_rules:
        result.rivals |= rivals.ask_rules(records / "samples.jsonl", stall_s, is_hang=program.is_hang, moment=run.hang_moment())
    return result


def read_events(records: Path) -> list[dict[str, object]]:
    """Return the events of a run, none where it left none."""
    events = []
    with contextlib.suppress(FileNotFoundError):
        for line in (records / "events.jsonl").read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                events.append(json.loads(line))
    return events


def assess(
    result: Result, program: Program, run: Run, events: list[dict[str, object]], offset: float, *, is_ended: bool = True
) -> None:
    """Fill in what the events say about a run; ``is_ended`` says that a hang should have ended it."""
    hang = next((event for event in events if event["event"] == "hang.detected"), None)
    moment = run.hang_moment()
    if hang is not None:
        result.cause, result.proven = str(hang.get("cause")), bool(hang.get("proven"))
        result.note = f"{words_of(hang.get('culprit'))} | {hang.get('summary')}"
    if not program.is_hang:
        if hang is not None or result.status != 0:
            result.verdict = "false kill" if hang is not None or "ZOO DONE" in run.printed() else "broken"
            result.note = result.note or f"status {result.status}: {tail(run)}"
        else:
            result.verdict = "ok"
    elif moment is None and hang is None:
        result.note = f"never began to hang: {tail(run)}"
    elif hang is None:
        result.verdict, result.note = "missed", result.note or f"status {result.status}: {tail(run)}"
    else:
        at = datetime.fromisoformat(str(hang["timestamp"]).replace("Z", "+00:00")).timestamp() - offset
        result.verdict = "premature" if moment is None or at < moment else "found"
        if result.verdict == "found" and moment is not None:
            result.latency_s = round(at - moment, 2)
            if is_ended and result.status != 124:
                result.note += f" | status {result.status}, not 124"
        text = f"{words_of(hang.get('culprit'))} {hang.get('summary')}".replace(str(program.path), "").replace(program.name, "")
        result.is_cause_right = result.cause in program.causes
        result.is_culprit_right = any(is_named(word, text) for word in program.culprit)


def words_of(culprit: object) -> str:
    """Return what a culprit says, without the names of its fields."""
    if isinstance(culprit, dict):
        return ", ".join(
            f"{key} {value}" if key in ("pid", "rank") else str(value) for key, value in culprit.items() if value is not None
        )
    return str(culprit)


def is_named(word: str, text: str) -> bool:
    """Whether a text holds a word, or one that begins with it: ``read`` is no part of ``threading``."""
    return re.search(rf"(?<![a-z_]){re.escape(word)}", text, re.IGNORECASE) is not None


def seconds_of(text: str) -> float:
    """Return a duration such as ``20`` or ``20s`` or ``3m`` in seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m)?", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration like 20s")
    return float(found[1]) * (60 if found[2] == "m" else 1)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", default=[], metavar="GLOB", help="programs, by name; may be given several times")
    parser.add_argument("--jobs", type=int, default=2, help="programs at a time")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--stall", type=seconds_of, default=20.0, help="stall timeout, default 20s")
    parser.add_argument("--json", type=Path, help="file for all results")
    parser.add_argument("--keep", action="store_true", help="keep the directories of runs that failed")
    parser.add_argument("--rules", action="store_true", help="what rules of thumb would have said of the same runs")
    parser.add_argument("--peers", action="store_true", help="run every program below torchrun and ft_launcher too")
    parser.add_argument("--unsupervised", action="store_true", help="check the programs themselves")
    parser.add_argument("--option", action="append", default=[], help="one more of unsloth-watch, as --option=--no-live-repair")
    return parser


def main() -> int:
    """Run what was asked for; print rows as they come, then totals."""
    parser = make_parser()
    options = parser.parse_args()
    programs = [one for one in read_zoo() if not options.only or any(fnmatch.fnmatch(one.name, glob) for glob in options.only)]
    if not programs:
        parser.error(f"no program is called {' or '.join(options.only)}")
    if any(program.needs for program in programs):
        environments.python_of("modern")
    if options.unsupervised and (options.rules or options.peers):
        parser.error("--unsupervised looks at the programs alone; --rules and --peers need runs of them")
    launchers = rivals.launcher_commands(environments.python_of("peers"), options.stall) if options.peers else {}
    place = Path(tempfile.mkdtemp(prefix="zoo-bench-"))
    trial = subprocess.run(
        [*watch_command(options.stall, options.option, place / "trial"), "true"], capture_output=True, check=False
    )
    if trial.returncode != 0:
        print(f"unsloth-watch does not run: {trial.stderr.decode(errors='replace')}", file=sys.stderr)
        return 1
    print(
        f"{'program':34} {'verdict':10} {'latency':>7} {'proven':>6} {'cause':>5} {'culprit':>7} {'named':24} {'run, s':>6}  said"
    )

    def one(number: int, program: Program) -> Result:
        there = place / f"{number:02}-{program.name}"
        if options.unsupervised:
            result = check_alone(program, options.stall, there, options.option)
        else:
            result = supervise(program, options.stall, there, options.option, with_rules=options.rules)
        for index, (name, command) in enumerate(launchers.items()):
            result.rivals[name] = rivals.ask_launcher(Run(program, options.stall, there / f"peer-{index}"), command)
        is_good = result.verdict == "ok" or (result.verdict == "found" and result.is_cause_right and result.is_culprit_right)
        if not options.keep or (is_good and not options.unsupervised):
            shutil.rmtree(there, ignore_errors=True)
            result.place = ""
        print_row(result)
        return result

    with ThreadPoolExecutor(options.jobs) as pool:
        waiting = [pool.submit(one, number, program) for number in range(options.repeat) for program in programs]
        results = [future.result() for future in waiting]
    totals = summarize(results)
    if not options.unsupervised:
        print(f"\nstall timeout {options.stall:g} s, {options.jobs} at a time, {os.cpu_count()} cores")
    for name, value in totals.items():
        print(f"{name:28} {', '.join(value) or '-' if isinstance(value, list) else value}")
    rival_totals = rivals.summarize_rivals((result.is_hang, result.rivals) for result in results)
    for line in rivals.describe_totals(rival_totals):
        print(line)
    if options.json:
        rows = [asdict(result) for result in results]
        options.json.write_text(
            json.dumps({"stall_s": options.stall, "totals": totals, "rivals": rival_totals, "results": rows}, indent=1)
        )
    if options.keep:
        print(f"kept: {place}")
    else:
        shutil.rmtree(place, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
