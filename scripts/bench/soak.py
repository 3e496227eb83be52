"""Launch after launch of short real jobs with faults on a schedule: nobody and nothing may be lost, and nobody killed wrongly.

usage: python scripts/bench/soak.py [--launches 200] [--parallel 2] [--seed 6] [--keep] [--json PATH]
       python scripts/bench/soak.py --one NUMBER      one launch of the schedule again, alone

Counted, and 0 each: orphans (every launch runs below a subreaper of its own, so that whoever outlives the supervisor is found,
whatever it did to hide), lost or damaged lines, wrong exit codes, false kills, records that cannot be read, runs without an end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from soakfaults import FAULTS, FULL_DISK, HOPELESS, PYSPY_FAULTS, Fault, Scene
from soakjobs import JOBS, SoakJob
from table import add_json_option, print_table, write_json

from unsloth_watch.act.guardian import become_subreaper, children_of, read_stat
from unsloth_watch.tell.events import read_events

COUNTS = ("orphans", "lost lines", "wrong exit codes", "false kills", "unreadable records", "no end")
LIMIT_S = 90.0
"""Longest run; the longest without a fault takes 15 s on two busy cores."""
DYING_S = 15.0
"""Longest time from the supervisor's death to that of everybody else: the guardian gives up after 10."""
_DISK = 'mount -t tmpfs -o size=96k,mode=700 tmpfs "$1" && shift && exec "$@"'


def draw(seed: int, number: int) -> tuple[SoakJob, list[tuple[float, Fault]], float]:
    """Return job, faults with their moments, and how long somebody is held stopped, of one launch of the schedule."""
    rng = random.Random(f"{seed}/{number}")
    job = rng.choice(JOBS)
    count = rng.choice((0, 1, 1, 1, 1, 2))
    faults: list[Fault] = []
    while len(faults) < count:
        fault = rng.choice((*FAULTS, *PYSPY_FAULTS) if job.is_hanging else FAULTS)
        if fault not in faults and not {one.name for one in (*faults, fault)} >= HOPELESS:
            faults.append(fault)
    moments = [(0.0 if fault in PYSPY_FAULTS else rng.uniform(0.0, job.seconds), fault) for fault in faults]
    return job, sorted(moments, key=lambda one: one[0]), rng.uniform(0.2, 4.0)


class Launch:
    """One launch, in a process that is a subreaper.

    Args:
        seed: Of the schedule.
        number: Place in it.
        place: An empty directory.
    """

    def __init__(self, seed: int, number: int, place: Path) -> None:
        self.job, self.moments, self.held_s = draw(seed, number)
        self.place = place
        self.records = place / "disk" / "run"
        self.output = b""
        self.committed: list[Fault] = []
        self.counts = dict.fromkeys(COUNTS, 0)
        self.notes: list[str] = []
        self.has_started = threading.Event()

    def blame(self, count: str, note: str, times: int = 1) -> None:
        """Count something that must not be."""
        self.counts[count] += times
        self.notes.append(f"{count}: {note}")

    def run(self) -> dict[str, Any]:
        """Run it, do the faults, and say what came of it."""
        become_subreaper()
        began = time.monotonic()
        (self.place / "disk").mkdir()
        program = self.place / "job.py"
        program.write_text(self.job.source)
        command = [
            sys.executable, "-m", "unsloth_watch", "--run-dir", str(self.records), "--stall-timeout", "4s", "--interval", "0.25s",
            "--grace", "1s", "--cache", "keep", "--", sys.executable, str(program),
        ]  # fmt: skip
        has_full_disk = FULL_DISK in [fault for _, fault in self.moments]
        if has_full_disk:
            command = ["unshare", "--mount", "sh", "-c", _DISK, "sh", str(self.place / "disk"), *command]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        errors = (self.place / "stderr").open("wb")
        process = subprocess.Popen(
            command, cwd=self.place, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        )
        errors.close()
        assert process.stdout is not None
        scene = Scene(process.pid, self.records, process.stdout, threading.Event(), self.held_s)
        threads = [
            threading.Thread(target=self._read, args=(process.stdout, scene)),
            *(threading.Thread(target=self._commit, args=(moment, fault, scene)) for moment, fault in self.moments),
        ]
        for thread in threads:
            thread.start()
        try:
            status: int | None = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            status = None
            self.blame("no end", f"still running after {LIMIT_S:g} s")
            process.kill()
            process.wait()
        scene.is_over.set()
        ended = time.monotonic()
        self._find_orphans()
        for thread in threads:
            thread.join()
        self._check(status, scene, has_full_disk=has_full_disk)
        faults = [f"{fault.name} at {moment:.2f} s" for moment, fault in self.moments]
        return {
            "job": self.job.name, "faults": faults, "committed": [fault.name for fault in self.committed], "status": status,
            "counts": self.counts, "notes": self.notes, "seconds": round(ended - began, 2),
        }  # fmt: skip

    def _read(self, stream: IO[bytes], scene: Scene) -> None:
        parts = []
        while not scene.has_closed_output:
            part = os.read(stream.fileno(), 65536)
            self.has_started.set()
            if not part:
                break
            parts.append(part)
        stream.close()
        self.output = b"".join(parts)

    def _commit(self, moment: float, fault: Fault, scene: Scene) -> None:
        self.has_started.wait(LIMIT_S)
        if not scene.is_over.wait(moment) and fault.commit(scene):
            self.committed.append(fault)

    def _find_orphans(self) -> None:
        """Wait until nobody is left below us, and end those who stay."""
        deadline = time.monotonic() + DYING_S
        while time.monotonic() < deadline:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    time.sleep(0.01)
            except ChildProcessError:
                return
        for pid in children_of(os.getpid()):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
            state = (read_stat(pid) or [b"gone"])[0].decode()
            self.blame("orphans", f"PID {pid} ({state}) {words[:200]}")
            os.kill(pid, signal.SIGKILL)

    def _check(self, status: int | None, scene: Scene, *, has_full_disk: bool) -> None:
        is_killed = status == -signal.SIGKILL and any(fault.is_fatal for fault in self.committed)
        if not is_killed and status is not None and status != self.job.status:
            self.blame("wrong exit codes", f"{status} instead of {self.job.status}")
        is_cut = is_killed or scene.has_closed_output
        expected = self.job.output
        if is_cut and not expected.startswith(self.output):
            self.blame("lost lines", "what came is no beginning of what was printed")
        elif not is_cut and self.output != expected:
            lost = set(expected.splitlines()) - set(self.output.splitlines())
            self.blame("lost lines", f"{len(lost)} of {self.job.lines} lines are missing", max(1, len(lost)))
        is_kept = not has_full_disk and all(fault.keeps_records for fault in self.committed)
        if is_kept:
            self._check_records(is_killed=is_killed, has_closed_output=scene.has_closed_output)

    def _check_records(self, *, is_killed: bool, has_closed_output: bool) -> None:
        try:
            events = list(read_events(str(self.records / "events.jsonl"))) if (self.records / "events.jsonl").exists() else []
            if (self.records / "run.json").exists():
                json.loads((self.records / "run.json").read_bytes())
            elif not is_killed:
                self.blame("unreadable records", "there is no run.json")
        except (OSError, ValueError) as error:
            self.blame("unreadable records", repr(error))
            return
        if not is_killed and (not events or events[-1]["event"] != "run.finished"):
            self.blame("unreadable records", "the last event is not run.finished")
        kills = [event for event in events if event["event"] == "attempt.terminating" and event["reason"] == "hang"]
        wrong = [event for event in kills if not self.job.is_hanging or event["attempt"] > 1]
        if wrong:
            self.blame("false kills", f"attempt {wrong[0]['attempt']} was ended as hung")
        if has_closed_output and not is_killed:
            printed = set(self.job.output.splitlines(keepends=True))  # stderr is in the log as well
            kept = b"".join(line for line in (self.records / "output.log").open("rb") if line in printed)
            if kept != self.job.output:
                self.blame("lost lines", f"output.log has {len(kept)} of {len(self.job.output)} bytes")


def run_one(seed: int, number: int, *, is_kept: bool) -> dict[str, Any]:
    """Run a launch in a process of its own."""
    place = Path(tempfile.mkdtemp(prefix=f"soak-{number}-"))
    words = [sys.executable, __file__, "--seed", str(seed), "--one", str(number), "--place", str(place)]
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    try:
        found: dict[str, Any] = json.loads(answer.stdout)
    except ValueError:
        found = {"job": "?", "faults": [], "committed": [], "status": answer.returncode, "seconds": 0.0}
        found |= {"counts": dict.fromkeys(COUNTS, 0) | {"no end": 1}, "notes": [answer.stderr[-2000:]]}
    found["number"] = number
    if any(found["counts"].values()) or is_kept:
        found["place"] = str(place)
        print(
            f"{number}: {found['job']}, {', '.join(found['faults']) or 'no fault'}: {'; '.join(found['notes'])}; {place}",
            flush=True,
        )
    else:
        subprocess.run(["rm", "-rf", str(place)], check=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launches", type=int, default=200)
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--one", type=int, metavar="NUMBER", help="run this launch of the schedule alone")
    parser.add_argument("--place", type=Path, help="with --one: an empty directory for it")
    parser.add_argument("--keep", action="store_true", help="keep the records of good launches too")
    add_json_option(parser)
    options = parser.parse_args()
    if options.one is not None:
        place = options.place or Path(tempfile.mkdtemp(prefix="soak-"))
        print(json.dumps(Launch(options.seed, options.one, place).run(), indent=None if options.place else 2))
        return 0
    with ThreadPoolExecutor(options.parallel) as pool:
        found = list(pool.map(lambda number: run_one(options.seed, number, is_kept=options.keep), range(options.launches)))
    total = Counter[str]()
    rows = []
    kinds = sorted({name for one in found for name in one["committed"] or ["none"]})
    for kind in kinds:
        those = [one for one in found if kind in (one["committed"] or ["none"])]
        rows.append([kind, len(those), *(sum(one["counts"][count] for one in those) for count in COUNTS)])
    for one in found:
        total.update(one["counts"])
    pairs = sum(len(one["committed"]) > 1 for one in found)
    rows.append([f"all, {pairs} with two faults", len(found), *(total[count] for count in COUNTS)])
    print_table(f"Soak, seed {options.seed}: {len(found)} launches", ["fault", "launches", *COUNTS], rows)
    by_job = Counter(one["job"] for one in found)
    print_table("By job", ["job", "launches"], [[name, count] for name, count in by_job.most_common()])
    write_json(options.json, "soak", {"seed": options.seed, "counts": dict(total), "launches": found})
    return 1 if sum(total.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
