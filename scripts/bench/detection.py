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
import pty
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(PROJECT / "scripts"), str(PROJECT / "tests")]

# Neither directory is a package.
import rivals  # noqa: E402

import environments  # noqa: E402
from zoo_reading import Program, read_zoo  # noqa: E402

WATCH = Path(sys.executable).with_name("unsloth-watch")
BUSY_FACTOR = 6
"""Busy timeout in stall timeouts: the silent healthy programs compute for three and must live."""
START_S = 45.0
"""What the start of a program may take at most: torch and transformers on two busy cores."""


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


class Run:
    """One program in its own directory, with whom it needs outside.

    Args:
        program: What to run.
        stall_s: Stall timeout, seconds.
        place: An empty directory.
        attempt: Number of the attempt that the program is told when it runs alone.
    """

    def __init__(self, program: Program, stall_s: float, place: Path, attempt: int | None = None) -> None:
        self.program, self.stall_s, self.place, self.mark = program, stall_s, place, uuid.uuid4().hex
        (place / "zoo").mkdir(parents=True)
        clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONUNBUFFERED", "ZOO_HANG")}
        self.environment = {
            **clean,
            "ZOO_STALL": str(stall_s),
            "ZOO_LIMIT": str(int(self.limit_s + 60)),
            "ZOO_DIR": str(place / "zoo"),
            "XDG_STATE_HOME": str(place / "state"),
        }
        if attempt is not None:
            self.environment |= {"UNSLOTH_WATCH_ATTEMPT": str(attempt), "ZOO_HANG": "first"}
        python = str(environments.python_of("modern")) if program.needs else sys.executable
        self.command = [python, str(program.path)]
        self._helper: subprocess.Popen[bytes] | None = None
        self._master: int | None = None

    @property
    def limit_s(self) -> float:
        """Seconds after which the run is ended from here."""
        if not self.program.is_hang:
            return 3 * self.program.duration_s(self.stall_s) + START_S + 3 * self.stall_s
        factor = {"stall": 2, "rhythm": 3, "busy": BUSY_FACTOR + 1}[self.program.timeouts]
        return START_S + factor * self.stall_s + 15

    def start(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Start a command with the program's standard input; its output goes to ``printed`` in the run's directory."""
        environment = dict(self.environment)
        if self.program.outside:
            self._start_outside()
            environment["ZOO_OUTSIDE"] = "1"
        environment["ZOO_RUN"] = self.mark
        with (self.place / "printed").open("wb") as printed, (self.place / "said").open("wb") as said:
            if self.program.stdin == "tty":
                return self._start_on_terminal(command, environment)
            stdin = subprocess.PIPE if self.program.stdin == "open-pipe" else subprocess.DEVNULL
            return subprocess.Popen(
                command, stdin=stdin, stdout=printed, stderr=said, env=environment, cwd=self.place, start_new_session=True
            )

    def _start_on_terminal(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        self._master, slave = pty.openpty()
        # setsid makes the terminal the controlling one, as for a job that a person starts.
        process = subprocess.Popen(
            ["setsid", "-c", *command], stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=self.place
        )
        os.close(slave)
        threading.Thread(target=self._read_terminal, args=(self._master,), daemon=True).start()
        return process

    def _read_terminal(self, master: int) -> None:
        # EIO says that the last process has left the terminal.
        with (self.place / "printed").open("wb", buffering=0) as printed, contextlib.suppress(OSError):
            while data := os.read(master, 65536):
                printed.write(data)

    def _start_outside(self) -> None:
        outside = self.program.outside
        helper = [
            sys.executable,
            "-S",
            str(self.program.path.with_name("outside.py")),
            *outside[:-1],
            str(self.place / "zoo" / outside[-1]),
        ]
        self._helper = subprocess.Popen(helper, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=self.environment)
        assert self._helper.stdout is not None
        if self._helper.stdout.readline() != b"ready\n":
            raise RuntimeError(f"{' '.join(helper)} did not start")

    def printed(self) -> str:
        """Return what was printed so far."""
        with contextlib.suppress(FileNotFoundError):
            return (self.place / "printed").read_text(errors="replace")
        return ""

    def hang_moment(self) -> float | None:
        """Return the moment that the program printed, on the monotonic clock; None where it printed none."""
        found = re.search(r"ZOO HANG (\d+\.\d+)", self.printed())
        return float(found[1]) if found else None

    def members(self) -> dict[int, str]:
        """Return PID and command of every process that carries this run's mark."""
        found = {}
        wanted = f"ZOO_RUN={self.mark}".encode()
        for entry in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if entry.isdigit() and wanted in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                    found[int(entry)] = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return found

    def close(self, process: subprocess.Popen[bytes]) -> tuple[str, ...]:
        """End whatever is left; return the commands of what was left."""
        # Whoever is about to end (a guardian, a reaped child) gets a moment.
        deadline = time.monotonic() + 3
        while (left := self.members()) and time.monotonic() < deadline and process.poll() is not None:
            time.sleep(0.1)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
        if self._helper is not None:
            self._helper.kill()
            self._helper.communicate()
        if self._master is not None:
            os.close(self._master)
        return tuple(left.values())


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


def suspend(run: Run, stall_s: float) -> None:
    """Stop the supervisor and all below it for two stall timeouts, one after the start."""
    time.sleep(stall_s)
    stopped = list(run.members())
    for number, pause_s in ((signal.SIGSTOP, 2 * stall_s), (signal.SIGCONT, 0)):
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        time.sleep(pause_s)


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


def tail(run: Run) -> str:
    """Return the last words of a run."""
    with contextlib.suppress(FileNotFoundError):
        said = (run.place / "said").read_text(errors="replace").strip()
        return " / ".join([*run.printed().splitlines()[-1:], *said.splitlines()[-2:]])[-300:]
    return ""


def check_alone(program: Program, stall_s: float, place: Path, options: list[str]) -> Result:
    """Run a program without a supervisor: does it hang, or live and end, as its head says?"""
    del options
    run = Run(program, stall_s, place / "alone")
    result = Result(program.name, program.is_hang, program.is_provable, place=str(place))
    start = time.monotonic()
    process = run.start(run.command)
    try:
        if program.is_hang:
            look_at_hang(result, run, process)
        else:
            if program.actions == "stop-continue":
                suspend(run, stall_s)
            result.status = process.wait(run.limit_s)
            is_done = result.status == 0 and "ZOO DONE" in run.printed()
            result.verdict = "ok" if is_done else "broken"
            result.note = f"expected {program.duration_s(stall_s):.0f} s" if is_done else tail(run)
    except subprocess.TimeoutExpired:
        result.note = f"not ended after {run.limit_s:.0f} s: {tail(run)}"
    finally:
        result.seconds = round(time.monotonic() - start, 1)
        left = run.close(process)
        if not program.is_hang:
            result.left_over = left
    if program.is_hang and result.verdict == "ok":
        check_cured(result, Run(program, stall_s, place / "cured", attempt=2))
    return result


def look_at_hang(result: Result, run: Run, process: subprocess.Popen[bytes]) -> None:
    """Wait for the program's word, then look at what the tree does for three seconds; py-spy's stacks go into the directory."""
    deadline = time.monotonic() + START_S
    while run.hang_moment() is None:
        if time.monotonic() > deadline or process.poll() is not None:
            result.note, result.status = f"never began to hang: {tail(run)}", process.poll()
            return
        time.sleep(0.1)
    time.sleep(4)
    before = {pid: cpu_ticks(pid) for pid in run.members()}
    time.sleep(3)
    members = run.members()
    share = sum(cpu_ticks(pid) - before.get(pid, 0) for pid in members) / 3 / os.sysconf("SC_CLK_TCK")
    states = []
    with (place := run.place / "stacks.txt").open("w") as file:
        for pid in members:
            states.append(f"{Path(f'/proc/{pid}/comm').read_text().strip()} {' '.join(sorted(waits(pid)))}")
            if "ptrace_stop" not in states[-1]:
                dump = [str(WATCH.with_name("py-spy")), "dump", "--nonblocking", "--pid", str(pid)]
                file.write(subprocess.run(dump, capture_output=True, text=True, timeout=10, check=False).stdout + "\n")
    result.note = f"{share:5.1%} CPU; {'; '.join(states)}; {place}"
    result.verdict = "ok" if process.poll() is None else "broken"


def cpu_ticks(pid: int) -> int:
    """Return the CPU time of a process in clock ticks, 0 where it has ended."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
    return 0


def waits(pid: int) -> list[str]:
    """Return state and wait channel of every thread."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            state = (task / "stat").read_text().rpartition(")")[2].split()[0]
            found.append(f"{state}:{(task / 'wchan').read_text()}")
    return found


def check_cured(result: Result, run: Run) -> None:
    """Check that a second attempt ends well where only the first hangs."""
    process = run.start(run.command)
    try:
        result.status = process.wait(START_S)
    except subprocess.TimeoutExpired:
        result.status = None
    run.close(process)
    if result.status != 0 or "ZOO DONE" not in run.printed():
        result.verdict, result.note = "broken", f"the second attempt ends with {result.status}: {tail(run)}"


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
    parser.add_argument("--option", action="append", default=[], help="one more option of unsloth-watch, as --option=--no-hooks")
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
