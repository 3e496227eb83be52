"""How well hangs are explained: runs the zoo's hanging programs without the judge, captures each, and compares cause and culprit.

``python scripts/bench/diagnosis.py --only 'hang_pool*' --parallel 2 --json out.json``; ``--save DIR`` keeps every case as JSON, and
``--cases DIR`` diagnoses kept cases again without running anything, in a second for all of them.

A program is launched, its printed moment awaited, then watched for three seconds with a dozen looks, captured in full and
diagnosed, all through what the supervisor itself uses; the verdict alone is made up, as the judge's would be. The pause is how long
a process of the job was in a tracing stop at a stretch, polled every half millisecond. ``wrong`` are the answers that matter most:
a cause said with 0.9 or more that is not the cause.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
from detection import is_named, seconds_of, words_of
from zoorun import START_S, Run, tail

PROJECT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(PROJECT / "scripts"), str(PROJECT / "tests")]

# Neither directory is a package.
from table import print_table, write_json  # noqa: E402

import environments  # noqa: E402
from unsloth_watch.capture.children import own_pids  # noqa: E402
from unsloth_watch.capture.look import looks  # noqa: E402
from unsloth_watch.diagnose import Case, diagnose  # noqa: E402
from unsloth_watch.model.process import ProcessRef  # noqa: E402
from unsloth_watch.model.sample import Look, OutputSample, Sample  # noqa: E402
from unsloth_watch.model.verdict import State, Verdict  # noqa: E402
from unsloth_watch.sense.files import FileReader  # noqa: E402
from unsloth_watch.sense.gpu import GpuReader  # noqa: E402
from unsloth_watch.sense.output import OutputReader  # noqa: E402
from unsloth_watch.sense.sampler import Sampler  # noqa: E402
from unsloth_watch.sense.stat import read_stat  # noqa: E402
from unsloth_watch.sense.tree import ProcessTree  # noqa: E402
from unsloth_watch.supervise.findings import investigate  # noqa: E402
from zoo_reading import Program, read_zoo  # noqa: E402

LOOKS = 12
SETTLE_S = 3.0
_LOOKED_AT = 4  # as the supervisor's own watch
_VERDICT = Verdict(State.HUNG, at=0.0, quiet_s=60.0, limit_s=60.0, last_progress=None, reasons=("made up by the benchmark",))


@dataclass
class Answer:
    """One program, explained.

    Attributes:
        name: Program.
        expected: Causes that its head accepts, best first.
        found: Cause that was named; None where the program never began to hang.
        status: How firmly.
        confidence: As said.
        is_cause_right: Whether the head accepts the cause.
        is_culprit_right: Whether culprit or summary holds one of the head's strings.
        capture_s: Seconds for the capture.
        diagnose_ms: Milliseconds for the diagnosis.
        pause_ms: Longest stretch in which a process of the job was stopped by the capture.
        processes: Processes captured.
        note: Culprit and summary, or what went wrong.
        alternatives: What else was weighed.
    """

    name: str
    expected: tuple[str, ...]
    found: str | None = None
    status: str = "-"
    confidence: float = 0.0
    is_cause_right: bool = False
    is_culprit_right: bool = False
    capture_s: float | None = None
    diagnose_ms: float | None = None
    pause_ms: float | None = None
    processes: int = 0
    note: str = ""
    alternatives: tuple[str, ...] = ()


class PauseClock:
    """Measures how long processes are held in a tracing stop.

    Args:
        refs: The processes.
    """

    def __init__(self, refs: tuple[ProcessRef, ...]) -> None:
        self._pids = [ref.pid for ref in refs]
        self._is_over = threading.Event()
        self._longest_s = 0.0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Return the longest stop, ms; a process that was stopped all the time does not count."""
        self._is_over.set()
        self._thread.join()
        return 1000 * self._longest_s

    def _watch(self) -> None:
        files = {pid: file for pid in self._pids if (file := _open_stat(pid)) is not None}
        since: dict[int, float] = {}
        pauseless = {pid for pid, file in files.items() if _state(file) in "Tt"}
        while not self._is_over.wait(0.0005):
            now = time.monotonic()
            for pid, file in files.items():
                if _state(file) == "t" and pid not in pauseless:
                    self._longest_s = max(self._longest_s, now - since.setdefault(pid, now))
                else:
                    since.pop(pid, None)
        for file in files.values():
            os.close(file)


def _open_stat(pid: int) -> int | None:
    try:
        return os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _state(file: int) -> str:
    try:
        return os.pread(file, 512, 0).rpartition(b")")[2].split()[0].decode()
    except OSError:
        return "X"


def explain(program: Program, place: Path, stall_s: float, save: Path | None) -> Answer:
    """Run one program until it hangs, capture it and explain it."""
    answer = Answer(program.name, program.causes)
    run = Run(program, stall_s, place)
    process = run.start(run.command)
    try:
        deadline = time.monotonic() + START_S
        while run.hang_moment() is None:
            if time.monotonic() > deadline or process.poll() is not None:
                answer.note = f"never began to hang (status {process.poll()}): {tail(run)}"
                return answer
            time.sleep(0.05)
        case = take_case(run, process, answer)
        if save is not None:
            save.mkdir(parents=True, exist_ok=True)
            (save / f"{program.name}.json").write_bytes(msgspec.json.encode(case))
        judge_case(program, case, answer)
    except Exception as error:  # one program's fault must not cost the others' rows; it is said in its row
        answer.note = f"the benchmark itself failed: {error!r}"
    finally:
        run.close(process)
    return answer


def take_case(run: Run, process: subprocess.Popen[bytes], answer: Answer) -> Case:
    """Return what the supervisor would know of a hung program."""
    stat = read_stat(process.pid)
    if stat is None:
        raise RuntimeError("the program has ended")
    root = ProcessRef(process.pid, stat.start_ticks)
    tree = ProcessTree((process.pid,), lambda: {os.getpid(), *own_pids()}, has_anchors=True)
    output = OutputReader()
    told = 0

    def read_output() -> OutputSample:
        nonlocal told
        data = run.printed().encode()
        fresh, told = data[told:], len(data)
        return output.feed(fresh, told, 0, is_blocked=False)

    sampler = Sampler(tree, read_output, FileReader(), GpuReader(interval_s=SETTLE_S / LOOKS), SETTLE_S / LOOKS)
    seen: list[Look] = []
    samples: list[Sample] = []
    began = time.monotonic()
    for number in range(LOOKS):
        time.sleep(max(0.0, began + (number + 1) * SETTLE_S / LOOKS - time.monotonic()))
        samples.append(sampler.sample(time.monotonic(), time.time()))
        seen += looks([root, *(ref for ref in tree.members() if ref != root)][:_LOOKED_AT])
    members = tree.members()
    pause = PauseClock(members)
    start = time.monotonic()
    findings = investigate(members, root, _VERDICT, tuple(seen), tuple(samples), with_locals=False)
    answer.capture_s = round(time.monotonic() - start, 3)
    answer.pause_ms = round(pause.stop(), 1)
    answer.processes = len(findings.evidence.processes)
    sampler.close()
    tree.close()
    return Case(findings.evidence, _VERDICT, tuple(seen), tuple(samples))


def judge_case(program: Program, case: Case, answer: Answer) -> None:
    """Diagnose a case and compare it with the program's head."""
    start = time.perf_counter()
    diagnosis = diagnose(case)
    answer.diagnose_ms = round(1000 * (time.perf_counter() - start), 1)
    answer.found, answer.status, answer.confidence = diagnosis.cause, diagnosis.status.value, diagnosis.confidence
    culprit = msgspec.to_builtins(diagnosis.culprit) if diagnosis.culprit is not None else None
    answer.note = f"{words_of(culprit)} | {diagnosis.summary}"
    text = answer.note.replace(str(program.path), "").replace(program.name, "")
    answer.is_cause_right = diagnosis.cause in program.causes
    answer.is_culprit_right = any(is_named(word, text) for word in program.culprit)
    answer.alternatives = diagnosis.alternatives


def print_row(answer: Answer) -> None:
    """Print one answer."""
    right = ["yes" if value else "NO" for value in (answer.is_cause_right, answer.is_culprit_right)]
    cells = f"{answer.name:32} {answer.expected[0]:24} {answer.found or '-':24} {right[0]:>5} {right[1]:>7}"
    times = f"{answer.capture_s or 0:6.2f} {answer.diagnose_ms or 0:6.1f} {answer.pause_ms or 0:6.1f}"
    print(f"{cells} {answer.status:12} {answer.confidence:4.2f} {times}  {answer.note[:220]}", flush=True)


def summarize(answers: list[Answer]) -> dict[str, object]:
    """Return the totals."""
    asked = [answer for answer in answers if answer.found is not None]
    sure = [answer for answer in asked if answer.confidence >= 0.9]
    captures = [answer.capture_s for answer in asked if answer.capture_s is not None]
    pauses = [answer.pause_ms for answer in asked if answer.pause_ms is not None]
    thoughts = [answer.diagnose_ms for answer in asked if answer.diagnose_ms is not None]
    return {
        "programs": len(answers),
        "cause right": f"{sum(one.is_cause_right for one in asked)} of {len(asked)}",
        "culprit right": f"{sum(one.is_culprit_right for one in asked)} of {len(asked)}",
        "said unknown": sum(one.found == "unknown" for one in asked),
        "sure and right": f"{sum(one.is_cause_right for one in sure)} of {len(sure)}",
        "sure and wrong": sorted(one.name for one in sure if not one.is_cause_right),
        "capture, s": f"median {statistics.median(captures):.2f}, slowest {max(captures):.2f}" if captures else "-",
        "diagnosis, ms": f"median {statistics.median(thoughts):.1f}, slowest {max(thoughts):.1f}" if thoughts else "-",
        "longest pause, ms": max(pauses, default=None),
        "cause wrong": sorted(one.name for one in asked if not one.is_cause_right),
        "never hung": sorted(one.name for one in answers if one.found is None),
    }


def calibrate(answers: list[Answer]) -> list[tuple[str, int, int, str]]:
    """Return for each band of confidence: how many answers, how many right, and the share."""
    rows = []
    for low, high in ((0.9, 1.01), (0.7, 0.9), (0.5, 0.7), (0.01, 0.5), (-0.01, 0.01)):
        band = [one for one in answers if one.found is not None and low <= one.confidence < high]
        right = sum(one.is_cause_right for one in band)
        rows.append((f"{max(low, 0):.2f}–{min(high, 1):.2f}", len(band), right, f"{right / len(band):.0%}" if band else "-"))
    return rows


def main() -> int:
    """Explain what was asked for; print rows as they come, then the totals."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", default=[], metavar="GLOB", help="programs, by name; may be given several times")
    parser.add_argument("--parallel", type=int, default=2, help="programs at a time (2)")
    parser.add_argument("--stall", type=seconds_of, default=20.0, help="stall timeout that the programs reckon with, default 20s")
    parser.add_argument("--json", type=Path, help="file for all answers")
    parser.add_argument("--save", type=Path, metavar="DIR", help="keep every case there as NAME.json")
    parser.add_argument("--cases", type=Path, metavar="DIR", help="diagnose the cases kept there; runs nothing")
    options = parser.parse_args()
    programs = [
        one
        for one in read_zoo()
        if one.is_hang and (not options.only or any(fnmatch.fnmatch(one.name, glob) for glob in options.only))
    ]
    if options.cases is not None:
        programs = [one for one in programs if (options.cases / f"{one.name}.json").exists()]
    if not programs:
        parser.error("there is no such program")
    if options.cases is None and any(program.needs for program in programs):
        environments.python_of("modern")
    head = f"{'program':32} {'expected':24} {'found':24} cause culprit {'status':12} conf"
    print(f"{head} {'capt s':>6} {'diag':>6} {'pause':>6}  said")
    place = Path(tempfile.mkdtemp(prefix="zoo-causes-"))

    def one(program: Program) -> Answer:
        if options.cases is not None:
            answer = Answer(program.name, program.causes)
            judge_case(program, msgspec.json.decode((options.cases / f"{program.name}.json").read_bytes(), type=Case), answer)
        else:
            answer = explain(program, place / program.name, options.stall, options.save)
        print_row(answer)
        return answer

    with ThreadPoolExecutor(1 if options.cases is not None else options.parallel) as pool:
        answers = list(pool.map(one, programs))
    shutil.rmtree(place, ignore_errors=True)
    totals, bands = summarize(answers), calibrate(answers)
    print_table("Calibration", ("confidence said", "answers", "right", "share"), bands)
    print()
    for name, value in totals.items():
        print(f"{name:20} {', '.join(value) or '-' if isinstance(value, list) else value}")
    write_json(
        options.json, "diagnosis", {"totals": totals, "calibration": bands, "answers": [asdict(answer) for answer in answers]}
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
