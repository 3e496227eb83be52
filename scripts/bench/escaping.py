"""Who outlives whom: the same escape artists below unsloth-watch and below other supervisors, stopped politely and by SIGKILL.

usage: python scripts/bench/escaping.py [--supervisord PATH] [--json PATH]

Each trial runs below a subreaper of its own, so that every survivor is found. "stopped": the supervisor gets SIGTERM, its own way
of being asked to end, with a second of grace where it knows one. "killed": it gets SIGKILL. The figure is the time from the signal
until the last process is gone; a survivor is one that is still there after 5 s. Those that are not installed are said: tini,
dumb-init and s6 are Debian packages, supervisord is ``pip install supervisor setuptools`` somewhere, and systemd is booted in
private namespaces, which takes root. PID 1 cannot be killed: there SIGKILL hits the command itself.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest
from systemdtrial import KINDS, boot_or_skip, try_systemd
from table import add_json_option, print_table, write_json

from unsloth_watch.act.guardian import become_subreaper, descendants

LIMIT_S = 5.0
"""Who lives for so long after the signal has escaped; the longest grace below is 1 s."""
READY_S = 20.0
WAYS = {"stopped": signal.SIGTERM, "killed": signal.SIGKILL}
ESCAPES = {
    "plain child": "",
    "own group": "os.setpgid(0, 0)",
    "setsid": "os.setsid()",
    "double fork": "os.setsid()\n    if os.fork(): os._exit(0)",
    "wiped environment": "os.setsid()\n    if os.fork(): os._exit(0)\n    environment = {}",
    "deaf": "for n in set(range(1, 65)) - {9, 19, 32, 33}: signal.signal(n, signal.SIG_IGN)",
    "stopped": "open('ready', 'w').close(); os.kill(os.getpid(), 19)",
    "1,000 children": "for _ in range(999):\n        if os.fork() == 0: break",
    "fork storm": (
        "for _ in range(6):\n        for _ in range(2):\n            if os.fork() == 0: os.setsid(); break\n        else: break"
    ),
}
_JOB = """
import os, signal
environment = dict(os.environ)
if os.fork() == 0:
    {escape}
    open("ready", "w").close()
    os.execve("/bin/sleep", ["sleep", "600"], environment)
os.execv("/bin/sleep", ["sleep", "600"])
"""


def write_commands(place: Path, job: list[str], supervisord: str | None) -> Mapping[str, list[str] | None]:
    """Return for every supervisor the words that run the job below it, None where it is not installed."""

    def find(name: str, *words: str) -> list[str] | None:
        path = shutil.which(name)
        return None if path is None else [path, *words]

    quoted = " ".join(job)
    (place / "supervisord.conf").write_text(
        f"[supervisord]\nnodaemon=true\nuser=root\nlogfile={place}/log\npidfile={place}/pid\nchildlogdir={place}\n"
        f"[program:job]\ncommand={quoted}\ndirectory={place}\nstopwaitsecs=1\nstopasgroup=true\nkillasgroup=true\n"
    )
    service = place / "scan" / "job"
    service.mkdir(parents=True)
    (service / "run").write_text(f"#!/bin/sh\ncd {place} && exec {quoted}\n")
    (service / "run").chmod(0o755)
    (service / "timeout-kill").write_text("1000\n")
    watch = [
        sys.executable,
        "-m",
        "unsloth_watch",
        "--quiet",
        "--cache",
        "keep",
        "--grace",
        "1s",
        "--run-dir",
        str(place / "run"),
        "--",
    ]
    return {
        "nothing": job,
        "unsloth-watch": [*watch, *job],
        "supervisord": [supervisord, "-c", str(place / "supervisord.conf")] if supervisord else None,
        "tini -s -g": find("tini", "-s", "-g", "--", *job),
        "dumb-init": find("dumb-init", *job),
        "s6-svscan": find("s6-svscan", str(place / "scan")),
    }


def try_one(supervisor: str, escape: str, signum: int, supervisord: str | None) -> dict[str, object]:
    """Run one trial in this process, which must have no other children."""
    become_subreaper()
    place = Path(tempfile.mkdtemp(prefix="escaping-"))
    (place / "job.py").write_text(_JOB.format(escape=ESCAPES[escape]))
    words = write_commands(place, [sys.executable, "-I", "-S", str(place / "job.py")], supervisord)[supervisor]
    if words is None:
        return {"missing": True}
    process = subprocess.Popen(words, cwd=place, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + READY_S
        while not (place / "ready").exists() or not _has_settled(process.pid):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{supervisor}, {escape}: the job did not start")
            time.sleep(0.01)
        # Supervisors that look after a start first are given that moment (supervisord: startsecs is 1).
        time.sleep(1.5)
        began = time.monotonic()
        process.send_signal(signum)
        while time.monotonic() - began < LIMIT_S:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    time.sleep(0.001)
            except ChildProcessError:
                return {"ms": round(1000 * (time.monotonic() - began), 1), "survivors": 0}
        return {"ms": None, "survivors": sum(1 for pid, _ in descendants(os.getpid()) if _is_alive(pid))}
    finally:
        for _ in range(100):
            left = descendants(os.getpid())
            for pid, _ in left:
                os.kill(pid, signal.SIGKILL)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                break
            time.sleep(0.02)
        shutil.rmtree(place, ignore_errors=True)


def try_below_systemd(only: Collection[str]) -> dict[str, dict[str, dict[str, object]]]:
    """Return the trials below a real systemd; none, with the reason said, where it cannot be booted here."""
    found: dict[str, dict[str, dict[str, object]]] = {}
    wanted = {name: kind for name, kind in KINDS.items() if name in only}
    if not wanted:
        return found
    place = Path(tempfile.mkdtemp(prefix="escaping-"))
    try:
        machine = boot_or_skip(place)
    except pytest.skip.Exception as why:
        print(f"\nsystemd: {why}")
        return found
    try:
        trials = [(name, escape, way) for name in wanted for escape in ESCAPES for way in WAYS]
        for number, (name, escape, way) in enumerate(trials):
            source = _JOB.format(escape=ESCAPES[escape])
            trial = try_systemd(machine, wanted[name], number, source=source, signum=WAYS[way], limit_s=LIMIT_S)
            found.setdefault(name, {})[f"{escape}, {way}"] = trial
    finally:
        machine.close()
        shutil.rmtree(place, ignore_errors=True)
    return found


def _has_settled(pid: int) -> bool:
    """Whether the job's parts have all become ``sleep``: nobody below forks any more."""
    names = []
    for child, _ in descendants(pid):
        try:
            names.append(Path(f"/proc/{child}/comm").read_text().strip())
        except OSError:
            return False
    return "sleep" in names or Path(f"/proc/{pid}/comm").read_text().strip() == "sleep"


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--supervisord", metavar="PATH", default=shutil.which("supervisord"), help="where supervisord is")
    parser.add_argument("--only", action="append", metavar="SUPERVISOR", help="try this one alone; may be given again")
    parser.add_argument("--one", nargs=3, metavar=("SUPERVISOR", "ESCAPE", "SIGNAL"), help="one trial alone, as JSON")
    add_json_option(parser)
    options = parser.parse_args()
    if options.one is not None:
        supervisor, escape, number = options.one
        print(json.dumps(try_one(supervisor, escape, int(number), options.supervisord)))
        return
    found: dict[str, dict[str, dict[str, object]]] = {}
    missing = []
    with tempfile.TemporaryDirectory() as scratch:
        known = write_commands(Path(scratch), ["true"], options.supervisord)
    known = {name: words for name, words in known.items() if name in (options.only or known)}
    for supervisor, words in known.items():
        if words is None:
            missing.append(supervisor)
            continue
        for escape in ESCAPES:
            for way, number in WAYS.items():
                command = [sys.executable, __file__, "--one", supervisor, escape, str(int(number))]
                command += ["--supervisord", options.supervisord] if options.supervisord else []
                answer = subprocess.run(command, capture_output=True, text=True, check=False)
                if answer.returncode:
                    raise SystemExit(answer.stderr)
                found.setdefault(supervisor, {})[f"{escape}, {way}"] = json.loads(answer.stdout)
    found |= try_below_systemd(options.only or KINDS)
    for way in WAYS:
        rows = []
        for supervisor, trials in found.items():
            cells = [_tell(trials[f"{escape}, {way}"]) for escape in ESCAPES]
            rows.append([supervisor, *cells])
        print_table(f"Supervisor {way}: ms until everybody is dead, or how many are left after {LIMIT_S:g} s", ["", *ESCAPES], rows)
    if missing:
        print(f"\nnot here: {', '.join(missing)}")
    write_json(options.json, "escaping", {"trials": found, "missing": missing})


def _tell(trial: Mapping[str, object]) -> str:
    return f"{trial['ms']:.0f}" if isinstance(trial["ms"], float) else f"{trial['survivors']} left"


if __name__ == "__main__":
    main()
