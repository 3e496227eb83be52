"""Real Unsloth on a real card under unsloth-watch: who is left alone, who is caught, what is said, and what comes after.

    python scenarios.py OUT healthy healthy-4bit healthy-overhead lock spin busy [--stall 20s] [--seconds 580] [--founding PATH]

Each scenario is one supervised run; its records go to OUT/SCENARIO-STALL and its row is printed when it ends. ``lock@60s`` has a
stall timeout of its own; ``a+b`` runs two at once on the same card; ``founding`` needs the folder with unsloth_zoo 2025.3.1. What
is not over when the time is up is interrupted, and its row has no status.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
JOB = Path("/tmp/unsloth-watch-gpu")
FLAVOURS = {
    "4bit": ["--four-bit"],
    # The host is the bottleneck of small batches, and its noise hides everything; of large ones it is the GPU.
    "overhead": ["--batch", "2", "--block", "20", "--steps", "440"],
    "overheadlarge": ["--batch", "128", "--block", "10", "--steps", "230"],
}


def command_of(name: str) -> tuple[list[str], str]:
    """Return the command of a scenario, and where it runs."""
    mode, _, flavour = name.partition("@")[0].partition("-")
    if mode == "founding":
        place = JOB / "founding"
        shutil.rmtree(place, ignore_errors=True)
        (place / "scripts").mkdir(parents=True)
        shutil.copy(HERE / "held.py", place / "scripts")
        return [sys.executable, "scripts/held.py"], str(place)
    more = FLAVOURS.get(flavour, [])
    command = [sys.executable, str(HERE / "finetune.py"), str(JOB / "train"), "--mode", mode, *more]
    return command, str(HERE.parents[2])


def place_of(name: str, options: argparse.Namespace) -> tuple[Path, str]:
    """Return where a scenario's records go, and its stall timeout."""
    plain, _, stall = name.partition("@")
    return Path(options.out) / f"{plain}-{stall or options.stall}", stall or options.stall


def start(name: str, options: argparse.Namespace) -> subprocess.Popen[bytes]:
    command, place = command_of(name)
    variables = dict(os.environ)
    run, stall = place_of(name, options)
    shutil.rmtree(run, ignore_errors=True)
    watch = [sys.executable, "-m", "unsloth_watch", "--run-dir", str(run), "--stall-timeout", stall, "--grace", "3s", "-v"]
    if name.startswith("founding"):
        # Before the rest: the old library must win.
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, (options.founding, os.environ.get("PYTHONPATH"))))
    with open(f"{run}.err", "wb") as errors:
        return subprocess.Popen([*watch, "--", *command], cwd=place, env=variables, stdout=subprocess.DEVNULL, stderr=errors)


def tell(name: str, options: argparse.Namespace, status: int | None, seconds: float) -> dict[str, Any]:
    """Return a scenario's row."""
    run, stall = place_of(name, options)
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    output = (run / "output.log").read_text(errors="replace") if (run / "output.log").exists() else ""
    hung = re.search(r"## ([\d.]+) .*HANG|## ([\d.]+) HANG", output)
    hung_at = float(next(group for group in hung.groups() if group)) if hung else None
    row: dict[str, Any] = {"scenario": name, "stall": stall, "status": status, "seconds": round(seconds, 1)}
    row["hangs"] = [
        {
            "after": None if hung_at is None else round(_unix(event) - hung_at, 1),
            **{key: event[key] for key in ("cause", "proven", "confidence", "quiet_s", "summary")},
        }
        for event in events
        if event["event"] == "hang.detected"
    ]
    row["attempts"] = [event["attempt"] for event in events if event["event"] == "attempt.started"]
    for wanted, keys in (
        ("gpu.released", ("seconds", "is_free", "devices")),
        ("gpu.fault", ("xid",)),
        ("sensor.degraded", ("sensor", "why")),
        ("hang.repaired", ("remedy",)),
        ("remedy.applied", ("remedy", "target")),
        ("incident.captured", ("seconds", "missing")),
        ("restart.refused", ("why",)),
        ("stall.suspected", ("quiet_s",)),
    ):
        found = [{key: event.get(key) for key in keys} for event in events if event["event"] == wanted]
        if found:
            row[wanted] = found
    row["timeline"] = [
        f"{_unix(event) - (hung_at or _unix(events[0])):.1f} {event['event']}"
        for event in events
        if event["event"].startswith(("attempt", "hang", "gpu", "restart", "run.finished"))
    ]
    row["steps"] = re.findall(r"(?:STEPS|BLOCKS) .*", output)
    return row


def _unix(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["timestamp"].replace("Z", "+00:00")).timestamp()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("scenarios", nargs="+")
    parser.add_argument("--stall", default="20s")
    parser.add_argument("--seconds", type=float, default=580.0)
    parser.add_argument("--founding")
    options = parser.parse_args()
    Path(options.out).mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + options.seconds
    for entry in options.scenarios:
        names = entry.split("+")
        began = time.monotonic()
        runs = {name: start(name, options) for name in names}
        for name, run in runs.items():
            try:
                status: int | None = run.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                status = None
                run.send_signal(signal.SIGINT)
                try:
                    run.wait(8)
                except subprocess.TimeoutExpired:
                    run.kill()
                    run.wait()
            row = tell(name, options, status, time.monotonic() - began)
            print(json.dumps(row, indent=1), flush=True)
            with open(Path(options.out) / "rows.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
