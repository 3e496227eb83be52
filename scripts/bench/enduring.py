"""Does anything grow? A long real job below unsloth-watch, and every half minute what its supervisor and its guardian use.

usage: python scripts/bench/enduring.py [--hours 1.5] [--every 30] [--json PATH]

The job prints steps in ever new words, lets children be born and end every few seconds, writes files under new names, opens and
closes TCP connections, starts threads. Now and then somebody captures it, pauses and resumes the watch, stops it by SIGSTOP for
three seconds; once it is stopped and left for the supervisor to continue. Resident and proportional memory, descriptors, threads,
CPU and the run directory are read from outside. Growth is the Theil-Sen slope, the median of the slopes of all pairs of readings,
per hour, with its 95 % interval (Sen 1968); the first tenth is left out, in which everything is used for the first time.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from table import add_json_option, print_table, write_json

from unsloth_watch.act.guardian import children_of

WATCH = str(Path(sys.executable).with_name("unsloth-watch"))
SETTLING = 0.1
"""Share of the time that belongs to no slope."""
HELD_S = 3.0
"""Seconds that the job is held stopped, each time but one."""
ROUNDS_S = 300.0
"""Seconds from one round of interference to the next."""
REPAIR_LIMIT_S = 240.0
"""Longest wait for the supervisor to continue a job that was stopped; the stall timeout below is 60 s."""
_MIB = 1 << 20
JOB = """
import os, random, socket, subprocess, sys, threading, time
until = time.monotonic() + float(sys.argv[1])
listener = socket.create_server(("127.0.0.1", 0))
rng, born, number = random.Random(6), [], 0
while time.monotonic() < until:
    number += 1
    word = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=8))
    print(f"step {number}/1000000 loss {rng.random():.4f} part {word}", flush=True)
    if number % 3 == 0:
        born.append(subprocess.Popen(["sleep", str(rng.randrange(1, 9))], start_new_session=number % 2 == 0))
    born = [one for one in born if one.poll() is None]
    if number % 5 == 0:
        with open(f"checkpoint-{number}", "wb") as file:
            file.write(os.urandom(1 << 16))
        if number > 50: os.unlink(f"checkpoint-{number - 50}")
    if number % 2 == 0:
        near = socket.create_connection(listener.getsockname()); far, _ = listener.accept()
        near.sendall(bytes(4096)); far.recv(4096); far.close(); near.close()
    if number % 7 == 0:
        threading.Thread(target=time.sleep, args=(2,), daemon=True).start()
    end = time.process_time() + 0.02
    while time.process_time() < end: pass
    time.sleep(1)
for one in born: one.wait()
"""


def read_cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process, without its children's."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def read_use(pid: int) -> dict[str, float]:
    """Return memory in MiB, descriptors, threads and CPU seconds of a process."""
    rollup = dict(line.split()[:2] for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return {
        "resident MiB": int(rollup["Rss:"]) / 1024,
        "proportional MiB": int(rollup["Pss:"]) / 1024,
        "descriptors": float(len(os.listdir(f"/proc/{pid}/fd"))),
        "threads": float(len(os.listdir(f"/proc/{pid}/task"))),
        "cpu_s": read_cpu_s(pid),
    }


def measure_directory(place: Path) -> dict[str, float]:
    """Return the MiB of the run directory, the command's own output and the reports of captures apart."""
    sizes = {"records MiB": 0, "output.log MiB": 0, "incidents MiB": 0}
    for path in place.rglob("*"):
        try:
            size = path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # renamed meanwhile
            continue
        name = path.relative_to(place).parts[0]
        kind = "output.log MiB" if name.startswith("output.log") else "incidents MiB" if name == "incidents" else "records MiB"
        sizes[kind] += size
    return {name: size / _MIB for name, size in sizes.items()}


def estimate_slope(times: Sequence[float], values: Sequence[float]) -> tuple[float, float, float]:
    """Return the Theil-Sen slope and the ends of its 95 % interval, NaN where there are fewer than three readings."""
    pairs = itertools.combinations(zip(times, values, strict=True), 2)
    slopes = sorted((after[1] - before[1]) / (after[0] - before[0]) for before, after in pairs)
    count = len(times)
    if count < 3:
        return math.nan, math.nan, math.nan
    # 1.96 standard deviations of Kendall's S, in ranks of the slopes: half of that to each side of the median.
    reach = 1.96 * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    low, high = int((len(slopes) - reach) / 2), math.ceil((len(slopes) + reach) / 2)
    return statistics.median(slopes), slopes[max(0, low)], slopes[min(len(slopes) - 1, high)]


class Endurance:
    """A supervised job that goes on for long.

    Args:
        place: An empty directory.
        seconds: How long it goes on.
    """

    def __init__(self, place: Path, seconds: float) -> None:
        self.records = place / "run"
        self.done: dict[str, int] = {}
        self._log = (place / "supervisor.log").open("wb")
        command = [WATCH, "--run-dir", str(self.records), "--stall-timeout", "60s", "--cache", "keep", "--"]
        self.process = subprocess.Popen(
            [*command, sys.executable, "-c", JOB, str(seconds)],
            cwd=place, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._log,
        )  # fmt: skip
        self.began = time.monotonic()
        self._interference = self._interfere()

    def close(self) -> int:
        """Wait for the end, or bring it about; return the exit status."""
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            return self.process.wait(60)
        finally:
            self._log.close()

    def read(self) -> dict[str, float]:
        """Return a reading; empty when the run is over."""
        guardian = next(iter(children_of(self.process.pid)), None)
        try:
            found = {f"supervisor {name}": value for name, value in read_use(self.process.pid).items()}
            if guardian is not None:
                found |= {f"guardian {name}": value for name, value in read_use(guardian).items()}
        except (FileNotFoundError, ProcessLookupError, IndexError, KeyError):  # over, or nobody's memory any more
            return {}
        return {"at": time.monotonic() - self.began, **found, **measure_directory(self.records)}

    def interfere(self) -> None:
        """Do the next thing that people do to a running job."""
        next(self._interference)

    def _count(self, name: str, *, is_done: bool) -> None:
        self.done[name if is_done else f"{name} failed"] = self.done.get(name, 0) + 1

    def _order(self, *words: str) -> None:
        answer = subprocess.run([WATCH, *words, str(self.records)], capture_output=True, check=False)
        self._count(words[0], is_done=answer.returncode == 0)

    def _interfere(self) -> Iterator[None]:
        for turn in itertools.count():
            self._order("capture")
            yield
            self._order("show", "--json")
            self._stop(lambda: time.sleep(HELD_S))
            yield
            self._order("pause")
            self._order("resume")
            yield
            if turn == 1:
                self._stop(self._await_repair)
                yield

    def _stop(self, wait: Callable[[], None]) -> None:
        pid = self._find_command()
        os.kill(pid, signal.SIGSTOP)
        try:
            wait()
        finally:
            os.kill(pid, signal.SIGCONT)
        self._count("SIGSTOP", is_done=True)

    def _find_command(self) -> int:
        return children_of(children_of(self.process.pid)[0])[0]

    def _await_repair(self) -> None:
        pid, until = self._find_command(), time.monotonic() + REPAIR_LIMIT_S
        while is_stopped(pid) and time.monotonic() < until:
            time.sleep(0.1)
        self._count("SIGCONT by the supervisor", is_done=not is_stopped(pid))


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "T"


def endure(place: Path, seconds: float, every_s: float) -> tuple[list[dict[str, float]], dict[str, int], int]:
    """Return the readings, what was done to the job how often, and the exit status."""
    run = Endurance(place, seconds)
    readings: list[dict[str, float]] = []
    # Everything is done for the first time while nothing counts yet.
    first_s = min(ROUNDS_S, SETTLING * seconds / 4)
    interferes_at = [*(first_s * number for number in (1, 2, 3)), *(ROUNDS_S * number for number in range(2, int(seconds)))]
    reads_at = every_s
    try:
        while run.process.poll() is None:
            now = time.monotonic() - run.began
            if now < seconds - every_s and now >= interferes_at[0]:
                del interferes_at[0]
                run.interfere()
            elif now >= reads_at:
                reads_at += every_s
                if reading := run.read():
                    readings.append(reading)
            else:
                time.sleep(max(0.0, min(reads_at, interferes_at[0] if now < seconds - every_s else reads_at) - now))
            if now > seconds + 120:
                break
    finally:
        status = run.close()
    return readings, run.done, status


def tabulate(readings: Sequence[dict[str, float]], seconds: float) -> list[list[object]]:
    """Return rows of first, last, range and slope per hour of everything that was read."""
    rows: list[list[object]] = []
    settled = [reading for reading in readings if reading["at"] >= SETTLING * seconds]
    for name in settled[0] if settled else ():
        those = [reading for reading in settled if name in reading]
        times, values = [reading["at"] / 3600 for reading in those], [reading[name] for reading in those]
        if name == "at":
            continue
        if name.endswith("cpu_s"):
            pairs = list(itertools.pairwise(zip(times, values, strict=True)))
            times = [after[0] for _, after in pairs]
            values = [(after[1] - before[1]) / (36 * (after[0] - before[0])) for before, after in pairs]
        slope, low, high = estimate_slope(times, values)
        span = f"{min(values):.2f}–{max(values):.2f}"
        title = name.replace("cpu_s", "% of a core")
        rows.append([title, f"{values[0]:.2f}", f"{values[-1]:.2f}", span, f"{slope:+.3f}", f"{low:+.3f} to {high:+.3f}"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=1.5)
    parser.add_argument("--every", type=float, default=30.0, metavar="SECONDS", help="between two readings")
    add_json_option(parser)
    options = parser.parse_args()
    seconds = 3600 * options.hours
    with tempfile.TemporaryDirectory(prefix="enduring-") as scratch:
        readings, done, status = endure(Path(scratch), seconds, options.every)
    print_table(
        f"{options.hours:g} h, {len(readings)} readings, exit status {status}",
        ["", "first", "last", "range", "slope per hour", "95 % interval"],
        tabulate(readings, seconds),
    )
    print("\ndone meanwhile: " + ", ".join(f"{name} {count}" for name, count in sorted(done.items())))
    write_json(options.json, "enduring", {"hours": options.hours, "status": status, "done": done, "readings": readings})


if __name__ == "__main__":
    main()
