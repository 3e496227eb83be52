"""The faults of the soak: what is done to the supervisor and its helpers while a job runs."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from unsloth_watch.act.guardian import children_of


@dataclass
class Scene:
    """What a fault can reach.

    Attributes:
        supervisor: PID of the supervisor.
        records: The run directory.
        output: Our reading end of the supervisor's standard output; a fault may close it.
        is_over: Set when the supervisor has ended: what still waits is not done any more.
        held_s: Seconds that a process is held stopped.
        has_closed_output: Whether a fault closed ``output``.
    """

    supervisor: int
    records: Path
    output: IO[bytes]
    is_over: threading.Event
    held_s: float
    has_closed_output: bool = False


def name_of(pid: int) -> str:
    """Return the name of a process, empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def find_helper(scene: Scene, name: str) -> int | None:
    """Return the PID of the supervisor's child of that name."""
    return next((pid for pid in children_of(scene.supervisor) if name_of(pid) == name), None)


def send(pid: int | None, signum: int) -> bool:
    """Signal a process; False when it is not there. Only for children of ours and of our child: nobody else reaps them."""
    if pid is None:
        return False
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return False
    return True


def stop_for_a_while(pid: int | None, scene: Scene) -> bool:
    """Stop and continue a process."""
    if not send(pid, signal.SIGSTOP):
        return False
    time.sleep(scene.held_s)
    send(pid, signal.SIGCONT)
    return True


def find_pyspy(scene: Scene) -> int | None:
    """Wait for the next py-spy of the supervisor; None when the run ends first."""
    while not scene.is_over.is_set():
        found = find_helper(scene, "py-spy")
        if found is not None:
            return found
        time.sleep(0.001)
    return None


def close_reader(scene: Scene) -> bool:
    """Go away as the reader of the command's output."""
    scene.has_closed_output = True  # the reading thread closes it: a descriptor must not be closed under a read
    return True


def delete_records(scene: Scene) -> bool:
    """Remove the run directory."""
    shutil.rmtree(scene.records, ignore_errors=True)
    return True


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: What it is called in the table.
        commit: Does it; False when there was nothing to do it to.
        is_fatal: Whether the supervisor itself dies of it.
        keeps_records: Whether the records must be whole afterwards.
    """

    name: str
    commit: Callable[[Scene], bool]
    is_fatal: bool = False
    keeps_records: bool = True


KILL_SUPERVISOR = Fault("SIGKILL supervisor", lambda scene: send(scene.supervisor, signal.SIGKILL), is_fatal=True)
STOP_SUPERVISOR = Fault("STOP+CONT supervisor", lambda scene: stop_for_a_while(scene.supervisor, scene))
KILL_GUARDIAN = Fault("SIGKILL guardian", lambda scene: send(find_helper(scene, "unsloth-guard"), signal.SIGKILL))
HOLD_GUARDIAN = Fault("STOP+CONT guardian", lambda scene: stop_for_a_while(find_helper(scene, "unsloth-guard"), scene))
STOP_GUARDIAN = Fault("SIGSTOP guardian", lambda scene: send(find_helper(scene, "unsloth-guard"), signal.SIGSTOP))
KILL_PYSPY = Fault("SIGKILL py-spy", lambda scene: send(find_pyspy(scene), signal.SIGKILL))
STOP_PYSPY = Fault("SIGSTOP py-spy", lambda scene: send(find_pyspy(scene), signal.SIGSTOP))
CLOSE_READER = Fault("reader closed", close_reader)
DELETE_RECORDS = Fault("run directory deleted", delete_records, keeps_records=False)
FULL_DISK = Fault("disk full", lambda _scene: True)
"""Not done in mid-run: such a run has its records on a small tmpfs, in a mount namespace of its own."""
FAULTS = (
    KILL_SUPERVISOR, STOP_SUPERVISOR, KILL_GUARDIAN, HOLD_GUARDIAN, STOP_GUARDIAN, CLOSE_READER, DELETE_RECORDS, FULL_DISK,
)  # fmt: skip
PYSPY_FAULTS = (KILL_PYSPY, STOP_PYSPY)
HOPELESS = {KILL_SUPERVISOR.name, KILL_GUARDIAN.name}
"""A pair that leaves nobody who could end the job; only a service manager's control group can. Never drawn together."""
