"""The escape artists below a real systemd, which runs as PID 1 of private namespaces (``tests/machine.py``).

A scope's command is nobody's child that systemd waits for; a service's is. Both have a control group. Asking is ``systemctl stop``;
as PID 1 cannot be killed, SIGKILL hits the command.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "tests"))
from machine import Machine, boot_or_skip
from waiting import until

__all__ = ["KINDS", "boot_or_skip", "try_systemd"]

KINDS = {"systemd-run --scope": "scope", "systemd-run (service)": "service"}


def find_group(machine: Machine, unit: str) -> Path | None:
    """Return a unit's control group as seen from here, None where it has none."""
    for folder, names, _ in os.walk(machine.group):
        if unit in names:
            return Path(folder, unit)
    return None


def list_members(group: Path) -> Iterator[int]:
    """Yield the PIDs in a control group and those below it."""
    for path in group.rglob("cgroup.procs"):
        try:
            yield from map(int, path.read_text().split())
        except OSError:  # removed meanwhile
            continue


def has_settled(group: Path | None) -> bool:
    """Whether all parts of the job have become ``sleep``, or stopped themselves before: nobody forks any more."""
    members = [] if group is None else list(list_members(group))
    for pid in members:
        try:
            name, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")
        except OSError:  # it has ended
            return False
        if not name.endswith("(sleep") and rest[0] != "T":
            return False
    return bool(members)


def try_systemd(machine: Machine, kind: str, number: int, *, source: str, signum: int, limit_s: float) -> dict[str, object]:
    """Run one trial, and return how long everybody took to die, or how many are left.

    Args:
        machine: The systemd.
        kind: ``scope`` or ``service``.
        number: Of the trial.
        source: The job's Python source.
        signum: SIGTERM to ask systemd to end it, SIGKILL for the command.
        limit_s: Seconds after which whoever lives has escaped.
    """
    place = machine.place / f"trial{number}"
    place.mkdir()
    (place / "job.py").write_text(source)
    unit = f"trial{number}.{kind}"
    words = ["systemd-run", "--quiet", f"--unit=trial{number}", "--property=TimeoutStopSec=1", "--property=TasksMax=infinity"]
    words += ["--scope"] if kind == "scope" else [f"--working-directory={place}"]
    command = shlex.join([*words, sys.executable, "-I", "-S", "job.py"])
    done = machine.run("sh", "-c", f"cd {place} && {command} > said 2>&1 < /dev/null &")
    assert done.returncode == 0, done.stderr
    until(lambda: (place / "ready").exists() and has_settled(find_group(machine, unit)), seconds=20)
    group = find_group(machine, unit)
    assert group is not None
    time.sleep(1.5)  # the same moment that all supervisors get
    began = time.monotonic()
    if signum == signal.SIGTERM:
        machine.run("systemctl", "stop", "--no-block", unit)
    else:
        os.kill(min(list_members(group)), signum)  # the command was there first
    while time.monotonic() - began < limit_s:
        if not any(list_members(group)):
            return {"ms": round(1000 * (time.monotonic() - began), 1), "survivors": 0}
        time.sleep(0.001)
    left = len(list(list_members(group)))
    (group / "cgroup.kill").write_text("1")
    return {"ms": None, "survivors": left}
