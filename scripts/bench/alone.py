"""The programs of the zoo without a supervisor: do they hang, or live and end, as their heads say?"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

from zooresult import Result
from zoorun import START_S, Run, suspend, tail

from zoo_reading import Program

_PY_SPY = Path(sys.executable).with_name("py-spy")


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
                dump = [str(_PY_SPY), "dump", "--nonblocking", "--pid", str(pid)]
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
