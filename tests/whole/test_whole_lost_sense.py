"""A sense that is lost while evidence is being taken: the verdict no longer stands, so nobody is ended for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from waiting import until
from watched import PROGRAM, Watched


def find_capture(supervisor: int) -> psutil.Process | None:
    """Return the py-spy of the capture (the looks before it use ``--nonblocking``), stopped; None while there is none."""
    # The dump takes 80 ms: going through all processes of a busy machine, as psutil does for children, would miss it.
    for children in Path(f"/proc/{supervisor}/task").glob("*/children"):
        try:
            for child in map(psutil.Process, map(int, children.read_text().split())):
                if "--native" in child.cmdline():
                    child.suspend()
                    return child
        except (psutil.Error, OSError):  # it has ended meanwhile
            continue
    return None


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_an_incident_is_abandoned_when_a_sense_is_lost_and_the_job_is_judged_anew_when_it_is_back(watched: Watched) -> None:
    job = watched.script("import threading; lock = threading.Lock(); lock.acquire(); print('ready', flush=True); lock.acquire()")
    options = ["--stall-timeout", "3s", "--interval", "0.1s", "--on-hang", "stop", "--grace", "0.5s", "-v"]
    command = [*PROGRAM, "--run-dir", str(watched.directory), *options, "--", sys.executable, job]
    process = subprocess.Popen(
        command, cwd=watched.place, env=watched.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        capture = until(lambda: find_capture(process.pid), seconds=60, every=0.002)
        # The supervisor is at CAPTURING, and stays there while py-spy stands. Without a descriptor left it cannot read /proc.
        supervisor = psutil.Process(process.pid)
        limits = supervisor.rlimit(psutil.RLIMIT_NOFILE)
        supervisor.rlimit(psutil.RLIMIT_NOFILE, (3, limits[1]))
        until(lambda: any(event["sensor"] == "processes" for event in watched.events("sensor.degraded")))
        with suppress(psutil.NoSuchProcess):  # it has a deadline, and a blind supervisor may have given it up
            capture.send_signal(signal.SIGCONT)
        until(lambda: has_ended(capture))
        size = os.path.getsize(watched.directory / "samples.jsonl")
        until(lambda: os.path.getsize(watched.directory / "samples.jsonl") > size + 800)  # several looks at nothing
        names = {event["event"] for event in watched.events()}
        assert not names & {"hang.detected", "attempt.terminating", "attempt.finished"}, names
        supervisor.rlimit(psutil.RLIMIT_NOFILE, limits)
        process.wait(timeout=100)
    finally:
        process.kill()  # a stopped py-spy ends by itself once the process that it dumps does
        process.wait()
    assert process.returncode == 124
    (incident,) = watched.summary()["incidents"]
    assert incident["number"] == 1
    assert [event["event"] for event in watched.events()].count("hang.detected") == 1
