"""Time of a capture, and the longest pause that it imposes on its target.

    python scripts/bench/capturing.py [--rounds 7] [--json PATH]

Each target writes the largest gap of its own clock into a shared file; the case "nothing" gives this machine's floor.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import platform
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from typing import Any

from unsloth_watch.capture.capture import capture, look
from unsloth_watch.capture.permission import check_trace
from unsloth_watch.capture.process import read_start
from unsloth_watch.capture.pyspy import Mode, dump
from unsloth_watch.diagnose import Case, diagnose
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.model.verdict import State, Verdict

TARGET = """
import mmap, struct, sys, threading, time
file = open(sys.argv[1], "r+b")
shared = mmap.mmap(file.fileno(), 16)
event = threading.Event()
for _ in range(int(sys.argv[2]) - 1):
    threading.Thread(target=event.wait, daemon=True).start()
print("ready", flush=True)
last, largest, epoch = time.perf_counter(), 0.0, 0
while True:
    time.sleep(float(sys.argv[3]))
    now = time.perf_counter()
    wanted = struct.unpack_from("=q", shared, 8)[0]
    largest, epoch = (max(largest, now - last), epoch) if wanted == epoch else (0.0, wanted)
    struct.pack_into("=d", shared, 0, largest)
    last = now
"""


MEASURED = 10


class Target:
    """A process that knows its longest pause."""

    def __init__(self, folder: str, number: int, threads: int) -> None:
        path = os.path.join(folder, str(number))
        with open(path, "wb") as file:
            file.write(bytes(16))
        # 65 clocks that tick each half millisecond would be the load themselves: the first ones measure, the others only live.
        period_s = 0.0005 if number < MEASURED else 0.2
        self.process = subprocess.Popen([sys.executable, "-c", TARGET, path, str(threads), str(period_s)], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.process.stdout.readline()
        with open(path, "r+b") as file:
            self.shared = mmap.mmap(file.fileno(), 16)
        self.ref = ProcessRef(self.process.pid, read_start(self.process.pid) or 0)
        self.epoch = 0

    def reset(self) -> None:
        """Forget the pauses so far."""
        self.epoch += 1
        struct.pack_into("=q", self.shared, 8, self.epoch)

    def pause_ms(self) -> float:
        """Return the longest pause since the reset, in ms."""
        return float(struct.unpack_from("=d", self.shared, 0)[0]) * 1000

    def end(self) -> None:
        """Kill and reap it."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def measure(targets: list[Target], act: Any, rounds: int) -> dict[str, float]:
    """Return medians of wall and own CPU time (children's included), and the longest pause of any target, in ms."""
    walls, cpus, pauses = [], [], []
    for _ in range(rounds):
        for target in targets:
            target.reset()
        time.sleep(0.02)
        start, before = time.perf_counter(), os.times()
        act()
        walls.append((time.perf_counter() - start) * 1000)
        after = os.times()
        cpus.append(sum(after[:4]) * 1000 - sum(before[:4]) * 1000)
        time.sleep(0.02)
        pauses.append(max(target.pause_ms() for target in targets[:MEASURED]))
    return {
        "wall_ms": statistics.median(walls),
        "cpu_ms": statistics.median(cpus),
        "pause_ms": statistics.median(pauses),
        "worst_pause_ms": max(pauses),
    }


def run_all(rounds: int) -> dict[str, dict[str, float]]:
    """Return the figures by case."""
    results = {}
    cases = (("1 process", 1, 1), ("10 processes", 10, 4), ("65 processes", 65, 2), ("200 threads", 1, 200))
    for name, processes, threads in cases:
        with tempfile.TemporaryDirectory() as folder:
            targets = [Target(folder, number, threads) for number in range(processes)]
            refs = [target.ref for target in targets]
            try:
                results[f"{name}: nothing"] = measure(targets, lambda: time.sleep(0.2), rounds)
                results[f"{name}: capture"] = measure(
                    targets, lambda refs=refs: capture(refs, refs[0], at=time.monotonic(), clock=time.monotonic), rounds
                )
                results[f"{name}: gentle capture"] = measure(
                    targets,
                    lambda refs=refs: capture(refs, refs[0], at=time.monotonic(), clock=time.monotonic, is_gentle=True),
                    rounds,
                )
                results[f"{name}: diagnosis"] = _time_diagnosis(refs, rounds)
                results[f"{name}: look"] = measure(targets[:1], lambda refs=refs: look(refs[0]), rounds)
                modes: tuple[Mode, ...] = ("plain", "native") if processes == 1 else ()
                for mode in modes:
                    results[f"{name}: {mode} dump"] = measure(
                        targets, lambda refs=refs, mode=mode: dump(refs[0].pid, mode, 10), rounds
                    )
            finally:
                for target in targets:
                    target.end()
    results["check_trace"] = _time_check(rounds)
    return results


def _time_diagnosis(refs: list[ProcessRef], rounds: int) -> dict[str, float]:
    """Return the wall time of a diagnosis, which touches nobody."""
    evidence = capture(refs, refs[0], at=time.monotonic(), clock=time.monotonic)
    case = Case(evidence, Verdict(State.HUNG, at=0.0, quiet_s=60.0, limit_s=60.0, last_progress=None, reasons=()))
    walls = []
    for _ in range(rounds):
        start = time.perf_counter()
        diagnose(case)
        walls.append((time.perf_counter() - start) * 1000)
    return {"wall_ms": statistics.median(walls)}


def _time_check(rounds: int) -> dict[str, float]:
    walls = []
    for _ in range(rounds):
        start = time.perf_counter()
        check_trace()
        walls.append((time.perf_counter() - start) * 1000)
    return {"wall_ms": statistics.median(walls)}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7, help="captures of each case (7)")
    parser.add_argument("--json", metavar="PATH", help="also write the figures here")
    options = parser.parse_args()
    results = run_all(options.rounds)
    columns = ("wall_ms", "cpu_ms", "pause_ms", "worst_pause_ms")
    print(f"{'':32}" + "".join(f"{column:>16}" for column in columns))
    for name, figures in results.items():
        print(f"{name:32}" + "".join(f"{figures[column]:16.1f}" if column in figures else f"{'–':>16}" for column in columns))
    if options.json:
        machine = {"kernel": platform.release(), "cpus": os.cpu_count(), "python": platform.python_version()}
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"machine": machine, "rounds": options.rounds, "results": results}, file, indent=1)


if __name__ == "__main__":
    main()
