"""What the relay costs: throughput, latency of a line and CPU, beside no relay at all.

usage: python scripts/bench/relaying.py [--runs 5] [--megabytes 512] [--json PATH]

Throughput: a command that writes as fast as it can (``head`` of /dev/zero), read by us through the supervisor's standard output;
once by itself, once with ``--capture inherit`` (the supervisor without its relay) and once relayed. Latency: a program prints the
monotonic time twenty times a second, and we subtract on arrival. CPU is that of the supervisor and all its children.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from table import add_json_option, median, print_table, spread, write_json

TICKS = 40
_TICKER = f"""
import os, time
time.sleep(0.5)  # past the supervisor's own start
for _ in range({TICKS}):
    os.write(1, b"%d\\n" % time.monotonic_ns())
    time.sleep(0.05)
"""
WAYS = {"no relay": None, "--capture inherit": "inherit", "--capture pipe": "pipe"}


def command_for(capture: str | None, records: Path, words: list[str]) -> list[str]:
    """Return the words that run a command in one of the ways."""
    if capture is None:
        return words
    return [sys.executable, "-m", "unsloth_watch", "--quiet", "--run-dir", str(records), "--capture", capture, "--", *words]


def read_flood(words: list[str]) -> tuple[float, int]:
    """Read a command's output to its end; return seconds from the first byte to the last, and bytes."""
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    size, began, ended = 0, 0.0, 0.0
    while part := os.read(process.stdout.fileno(), 1 << 20):
        ended = time.monotonic()
        began = began or ended
        size += len(part)
    process.stdout.close()
    if process.wait() != 0:
        raise RuntimeError(f"{words} ended with status {process.returncode}")
    return ended - began, size


def read_ticks(words: list[str]) -> list[float]:
    """Return how many milliseconds each line was on its way."""
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        found, pending = [], b""
        while part := os.read(process.stdout.fileno(), 65536):
            now = time.monotonic_ns()
            *lines, pending = (pending + part).split(b"\n")
            found += [(now - int(line)) / 1e6 for line in lines]
    if len(found) != TICKS:
        raise RuntimeError(f"{len(found)} of {TICKS} lines came")
    return found


def cpu_of_children() -> float:
    """Return CPU seconds of all children that have been waited for, and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(capture: str | None, megabytes: int) -> dict[str, float]:
    """Measure one way once."""
    place = Path(tempfile.mkdtemp(prefix="relaying-"))
    try:
        before = cpu_of_children()
        seconds, size = read_flood(command_for(capture, place / "flood", ["head", "-c", f"{megabytes}M", "/dev/zero"]))
        cpu = cpu_of_children() - before
        if size != megabytes << 20:
            raise RuntimeError(f"{capture}: {size} bytes came instead of {megabytes << 20}")
        latencies = read_ticks(command_for(capture, place / "ticks", [sys.executable, "-c", _TICKER]))
    finally:
        shutil.rmtree(place)
    return {
        "mb_per_s": size / 1e6 / seconds, "cpu_s_per_gb": cpu / (size / 1e9), "latency_ms": median(latencies),
        "worst_ms": max(latencies),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=512)
    add_json_option(parser)
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(options.runs):  # in turns, so that a busy minute hits all of them
        for way, capture in WAYS.items():
            found.setdefault(way, []).append(measure(capture, options.megabytes))
    rows = []
    for way, runs in found.items():
        cells = []
        for name, digits in (("mb_per_s", 0), ("cpu_s_per_gb", 2), ("latency_ms", 2), ("worst_ms", 1)):
            values = [run[name] for run in runs]
            cells.append(f"{median(values):.{digits}f} ({spread(values)})")
        rows.append([way, *cells])
    head = ["way", "MB/s", "CPU s/GB", "latency of a line, ms", "worst of 40, ms"]
    print_table(f"Relay: {options.megabytes} MB without a newline, {options.runs} runs, median (range)", head, rows)
    write_json(options.json, "relaying", {"megabytes": options.megabytes, "ways": found})


if __name__ == "__main__":
    main()
