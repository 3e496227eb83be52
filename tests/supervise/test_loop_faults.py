"""Faults under the loop itself, put into the real program: the supervisor goes on, nobody is left, and no hang is forgotten."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from waiting import until
from watched import Watched

OPTIONS = ("--stall-timeout", "3s", "--interval", "0.1s", "--on-hang", "stop", "--grace", "1s", "--cache", "keep")
HANG = "import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()"
MAIN = "\nimport sys\nfrom unsloth_watch.cli.main import main\nsys.exit(main())\n"

UNLISTED_AT_THE_END = """
from unsloth_watch.supervise.job import Job
right, refused = Job.members, []
def members(self):
    if self.ending is not None and len(refused) < 3:
        refused.append(1)
        raise OSError(24, "Too many open files")
    return right(self)
Job.members = members
"""
UNLISTED_AT_THE_HANG = """
from unsloth_watch.supervise.incident import Investigation
from unsloth_watch.supervise.job import Job
right, begin, refusing = Job.members, Investigation.__init__, []
def members(self):
    if refusing:
        raise OSError(24, "Too many open files")
    return right(self)
def refuse(self, *words, **more):
    refusing.append(1)
    begin(self, *words, **more)
    refusing.clear()
Job.members, Investigation.__init__ = members, refuse
"""
NO_REPORT = """
from unsloth_watch.supervise.incident import Investigation
def announce(self):
    raise KeyError("a word that is not there")
Investigation.announce = announce
"""
NO_WATCH_AT_FIRST = """
import unsloth_watch.supervise.watch as module
right, made = module.Watch.__init__, []
def begin(self, *words, **more):
    made.append(1)
    if len(made) == 1:
        raise OSError(24, "Too many open files")
    right(self, *words, **more)
module.Watch.__init__ = begin
"""
NO_EVIDENCE_AT_FIRST = """
from unsloth_watch.supervise.response import Response
right, asked = Response._investigate, []
def investigate(self, *words, **more):
    asked.append(1)
    if len(asked) == 1:
        raise OSError(24, "Too many open files")
    return right(self, *words, **more)
Response._investigate = investigate
"""
UNREAD = """
import unsloth_watch.sense.procfs as module
right = module._open_or_refused
module._open_or_refused = lambda path: -1 if path.endswith("/io") else right(path)
"""

# Faults on the way from a command's end to the run's: once or each time, before and after it was written down.
END_FAULTS = {
    "once as the end is heard": ("response", "Response", "hear_ending", 1),
    "each time that the end is heard": ("response", "Response", "hear_ending", 99),
    "once in its settling": ("interrupts", "Interrupts", "hear_last_press", 1),
    "each time that it is settled": ("interrupts", "Interrupts", "hear_last_press", 99),
    "in the records": ("chronicle", "Chronicle", "attempt_finished", 99),
    "in the last incident": ("response", "Response", "conclude", 99),
    "in the end by force": ("shutdown", "Shutdown", "advance", 99),
}
FAULTY = """
import unsloth_watch.supervise.{module} as module
right, met = module.{kind}.{name}, []
def fail(self, *words, **more):
    met.append(1)
    if len(met) <= {times}:
        raise KeyError("a word that is not there")
    return right(self, *words, **more)
module.{kind}.{name} = fail
"""


def bend(place: Path, code: str) -> list[str]:
    """Return the words that start the real program after some code."""
    program = place / "bent.py"
    program.write_text(textwrap.dedent(code) + MAIN)
    return [sys.executable, str(program)]


def told(watched: Watched, sensor: str) -> list[dict[str, Any]]:
    return [event for event in watched.events("sensor.degraded") if event["sensor"] == sensor]


def test_who_was_left_behind_is_ended_though_the_job_cannot_be_listed_at_once(watched: Watched, tmp_path: Path) -> None:
    job = watched.script("import subprocess; print(subprocess.Popen(['sleep', '600']).pid, flush=True)")
    program = bend(tmp_path, UNLISTED_AT_THE_END)
    status, out, err = watched.run(sys.executable, job, options=(*OPTIONS, "--capture", "pipe"), program=program)
    assert status == 0, err
    assert watched.summary()["outcome"] == "completed"
    assert not Path(f"/proc/{int(out)}").exists()


def test_a_hang_is_found_and_ended_though_the_job_cannot_be_listed_for_the_evidence(watched: Watched, tmp_path: Path) -> None:
    status, _, err = watched.run(sys.executable, "-c", HANG, options=OPTIONS, program=bend(tmp_path, UNLISTED_AT_THE_HANG))
    assert status == 124, err
    (captured,) = watched.events("incident.captured")
    assert any("the job could not be listed" in phrase for phrase in captured["missing"])
    assert watched.events("hang.detected")[0]["cause"] == "thread-deadlock"


@pytest.mark.parametrize(
    ("fault", "sensor"), [(NO_REPORT, "incident"), (NO_WATCH_AT_FIRST, "judge"), (NO_EVIDENCE_AT_FIRST, "judge")]
)
def test_a_fault_around_the_judge_is_told_and_the_hang_is_ended_nevertheless(
    watched: Watched, tmp_path: Path, fault: str, sensor: str
) -> None:
    status, _, err = watched.run(sys.executable, "-c", HANG, options=OPTIONS, program=bend(tmp_path, fault))
    assert status == 124, err
    assert len(told(watched, sensor)) == 1
    assert watched.summary()["outcome"] == "hung"


@pytest.mark.parametrize("where", END_FAULTS)
def test_a_fault_on_the_way_to_the_end_costs_neither_the_commands_status_nor_its_last_words(
    watched: Watched, tmp_path: Path, where: str
) -> None:
    module, kind, name, times = END_FAULTS[where]
    fault = FAULTY.format(module=module, kind=kind, name=name, times=times)
    text = "import subprocess, sys; print(subprocess.Popen(['sleep', '600']).pid, flush=True); print('last words'); sys.exit(7)"
    options = (*OPTIONS, "--capture", "pipe")
    status, out, err = watched.run(sys.executable, watched.script(text), options=options, program=bend(tmp_path, fault))
    assert status == 7, err
    pid, words = out.split(b"\n", 1)
    assert words == b"last words\n"
    until(lambda: not Path(f"/proc/{int(pid)}").exists(), seconds=60)
    assert told(watched, "end of the run")
    assert watched.summary()["outcome"] == "failed"


def test_reads_and_writes_that_cannot_be_seen_are_said_once(watched: Watched, tmp_path: Path) -> None:
    status, _, err = watched.run(sys.executable, "-c", HANG, options=OPTIONS, program=bend(tmp_path, UNREAD))
    assert status == 124, err
    (event,) = told(watched, "process I/O")
    assert str(watched.events("attempt.started")[0]["pid"]) in event["why"]


# Somebody continues the job at the very moment at which the repair is tried, and it is seen to move before the refusal is told.
CONTINUED = """
import os, signal, threading
import unsloth_watch.act.live as live
import unsloth_watch.supervise.watch as module
right, has_moved, is_asked = module.Watch.tick, threading.Event(), threading.Event()
def tick(self, now):
    verdict = right(self, now)
    if is_asked.is_set() and verdict.state.value == "progressing":
        has_moved.set()
    return verdict
def perform(repair, room):
    is_asked.set()
    os.kill(room.members[0].pid, signal.SIGCONT)
    has_moved.wait()
    return live.Performed((), ("somebody else was faster",))
module.Watch.tick, live.perform = tick, perform
"""
GOES_ON = """
import os, signal, sys
print("step 1/3", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
print("step 2/3", flush=True)
with open("go") as stream:
    stream.read()
sys.exit(7)
"""


def test_a_job_that_moved_while_its_repair_was_refused_is_left_alone(watched: Watched, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    options = (*OPTIONS[:-4], "--on-hang", "restart", "--grace", "1s")
    process = watched.start(sys.executable, watched.script(GOES_ON), options=options, program=bend(tmp_path, CONTINUED))
    try:
        until(lambda: "somebody else was faster" in report(watched), seconds=60)
        (tmp_path / "go").write_text("!")
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 7
    assert not watched.events("attempt.terminating")


def report(watched: Watched) -> str:
    path = watched.directory / "incidents" / "01" / "report.json"
    return json.dumps(json.loads(path.read_text())) if path.exists() else ""
