"""py-spy missing, killed, blocked, stopped or talking nonsense: the hang is found and ended all the same, and the fault is said."""

from __future__ import annotations

import json
import os
import signal
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from act.jobs import state_of
from faults.faulted import FAST, Faulted, identity
from unsloth_watch.act.terminate import is_running
from waiting import until

HANG = "import threading\nprint('ready', flush=True)\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()"
PY_SPIES = {
    "missing": None,
    "killed": "kill -9 $$",
    "blocked": "exec sleep 600",
    "stopped": "kill -STOP $$",
    "garbage": "head -c 300000 /dev/urandom",
    "endless": "exec cat /dev/zero",
    "lying": 'echo \'[{"pid": "x"}]\'',
}


def interpreter(place: Path, script: str | None) -> list[str]:
    """Return the words that start the supervisor in an environment with another py-spy beside its interpreter."""
    folder = place / "bin"
    folder.mkdir(parents=True)
    python = Path(sys.executable).resolve()
    (place / "pyvenv.cfg").write_text(f"home = {python.parent}\n")
    (folder / "python").symlink_to(python)
    packages = place / "lib" / "python{}.{}".format(*sys.version_info)
    packages.mkdir(parents=True)
    (packages / "site-packages").symlink_to(sysconfig.get_path("purelib"))
    if script is not None:
        (folder / "py-spy").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "py-spy").chmod(0o755)
    return [str(folder / "python"), "-m", "unsloth_watch"]


def start(place: Path, script: str | None, *options: str) -> Faulted:
    return Faulted(
        place, HANG, options=(*FAST, *options), environment={"PATH": "/usr/bin:/bin"}, program=interpreter(place, script)
    )


def watch_a_hang(place: Path, script: str | None) -> Faulted:
    run = start(place, script, "--on-hang", "stop")
    try:
        run.end()
    finally:
        run.close()
    return run


def test_without_a_py_spy_that_works_a_hang_is_ended_and_the_report_says_what_is_missing(tmp_path: Path) -> None:
    with ThreadPoolExecutor(len(PY_SPIES)) as pool:
        runs = dict(zip(PY_SPIES, pool.map(lambda one: watch_a_hang(tmp_path / one[0], one[1]), PY_SPIES.items()), strict=True))
    for name, run in runs.items():
        assert run.process.returncode == 124, (name, run.said)
        captured = run.events("incident.captured")[0]
        assert captured["complete"] is False, name
        assert captured["missing"], name
        report = json.loads((run.directory / "incidents" / "01" / "report.json").read_bytes())
        assert report["verdict"]["state"] == "hung", name
        assert (run.directory / "incidents" / "01" / "report.md").stat().st_size > 0, name


def test_a_blocked_py_spy_dies_with_its_supervisor(tmp_path: Path) -> None:
    run = start(tmp_path, "echo $$ > py-spy.pid; exec sleep 600")
    try:
        run.await_line(b"ready\n")
        written = tmp_path / "py-spy.pid"
        blocked = identity(int(until(lambda: written.exists() and written.read_text(), seconds=30)))
        until(lambda: state_of(blocked[0]) == "S" and psutil.Process(blocked[0]).name() == "sleep")
        os.kill(run.process.pid, signal.SIGKILL)
        run.end()
        until(lambda: not is_running(*blocked))
    finally:
        run.close()
