"""How long a hang costs: from its start to the verdict, the complete evidence, the dead tree and the next attempt.

usage: python scripts/bench/recovery.py [--runs 3] [--stall 10s] [--grace 2] [--only NAME]... [--json PATH]

Real programs that hang in their first attempt only: the founding case and some of the zoo. The moment of the hang is printed by the
zoo's programs; the founding case hangs from its last progress on. The rest is read from the run's own events.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from detection import WATCH, read_events
from table import add_json_option, median, print_table, spread, write_json
from zoorun import PROJECT, Run

import environments
from zoo_reading import read_zoo

FOUNDING = "founding (unsloth#1898)"
PROGRAMS = ("hang_abba", "hang_dataloader_worker_stuck", "hang_missing_directory", "hang_urlopen_silent", "hang_gloo_rank_missing")
STEPS = ("verdict", "evidence", "dead", "next")


def moment_of(events: list[dict[str, object]], name: str, number: int = 0) -> float:
    """Return the wall time of the n-th event of a name, seconds."""
    found = [event for event in events if event["event"] == name]
    return datetime.fromisoformat(str(found[number]["timestamp"]).replace("Z", "+00:00")).timestamp()


def measure(name: str, stall: str, grace: str, place: Path) -> dict[str, float]:
    """Run a program once; return the seconds of every step."""
    records = place / "run"
    options = ["--stall-timeout", stall, "--grace", grace, "--no-live-repair", "--run-dir", str(records), "--"]
    offset = time.time() - time.monotonic()
    if name == FOUNDING:
        shutil.copytree(PROJECT / "examples" / "founding", place / "job")
        command = [str(WATCH), *options, str(environments.python_of("founding")), "scripts/train.py"]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
        status = subprocess.run(
            command, cwd=place / "job", env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
        ).returncode
        began = None
    else:
        program = next(program for program in read_zoo() if program.name == name)
        run = Run(program, float(stall.rstrip("s")), place)
        run.environment["ZOO_HANG"] = "first"
        process = run.start([str(WATCH), *options, *run.command])
        status = process.wait(run.limit_s)
        run.close(process)
        moment = run.hang_moment()
        began = moment + offset if moment is not None else None
    events = read_events(records)
    if status != 0:
        raise RuntimeError(f"{name}: exit status {status}; its records are in {records}")
    # The verdict comes first; the capture that explains it has its length in its event.
    evidence_s = next(float(str(event["seconds"])) for event in events if event["event"] == "incident.captured")
    verdict = moment_of(events, "incident.captured") - evidence_s
    if began is None:
        began = verdict - next(float(str(event["quiet_s"])) for event in events if event["event"] == "hang.detected")
    delay = next(float(str(event["delay_s"])) for event in events if event["event"] == "restart.scheduled")
    dead = moment_of(events, "attempt.finished")
    return {
        "verdict": verdict - began,
        "evidence": evidence_s,
        "dead": dead - verdict,
        "next": moment_of(events, "attempt.started", 1) - dead,
        "backoff": delay,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--stall", default="10s", help="stall timeout")
    parser.add_argument("--grace", default="2s")
    parser.add_argument("--only", action="append", metavar="NAME", help=f"of {FOUNDING}, {', '.join(PROGRAMS)}")
    add_json_option(parser)
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {}
    for name in options.only or (FOUNDING, *PROGRAMS):
        for number in range(options.runs):
            place = Path(tempfile.mkdtemp(prefix="recovery-"))
            try:
                found.setdefault(name, []).append(measure(name, options.stall, options.grace, place))
            except RuntimeError as error:
                print(f"run {number + 1} failed: {error}", file=sys.stderr)
                continue
            shutil.rmtree(place)
    titles = [
        "program",
        "runs",
        "start → verdict",
        "verdict → evidence",
        "verdict → dead tree",
        "dead → next attempt",
        "backoff of it",
    ]
    rows = []
    for name, runs in found.items():
        cells = [f"{median([run[step] for run in runs]):.2f} ({spread([run[step] for run in runs])})" for step in STEPS]
        rows.append([name, len(runs), *cells, f"{median([run['backoff'] for run in runs]):.2f}"])
    print_table(f"Recovery at --stall-timeout {options.stall}, --grace {options.grace}: seconds, median (range)", titles, rows)
    write_json(options.json, "recovery", {"stall": options.stall, "grace": options.grace, "programs": found})


if __name__ == "__main__":
    main()
