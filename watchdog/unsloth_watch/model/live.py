"""What a supervisor is doing at this moment: the answer of its control socket, and what systemd shows as its status."""

from __future__ import annotations

import msgspec

SCHEMA = "unsloth-watch/live/1"


class LiveState(msgspec.Struct, frozen=True):
    """One moment of a run.

    Attributes:
        schema: Version of this shape.
        id: The run's id.
        directory: Its run directory.
        command: Argument vector.
        cwd: Working directory of the command.
        supervisor_pid: PID of the supervisor.
        phase: What the supervisor is doing: running, capturing, repairing, terminating, waiting or finished.
        attempt: Number of the attempt, from 1.
        pid: PID of the command.
        ran_s: Seconds since this attempt began.
        state: What the judge thinks of the job; None before the first sample, and while watching is paused.
        job_phase: What the job seems to be in: import, load, train, …
        quiet_s: Seconds without progress; None before the first sample.
        limit_s: Quiet seconds at which it would count as hung; None before the first sample.
        last_progress: Newest evidence that the work got further; None before the first.
        last_progress_s: Seconds since it; None before the first.
        reasons: What the judge's answer rests on.
        degraded: Senses that are missing.
        status: The newest ``STATUS=`` that the command itself reported, empty if none.
        is_paused: Whether watching is paused: nothing is judged, nobody is ended for a hang.
        is_ending: Whether somebody has asked for the end, so that nothing will be relaunched.
        restarts: Relaunches so far.
        incidents: Incidents so far.
        next_attempt_s: Seconds until the next attempt; None unless it waits for one.
    """

    schema: str
    id: str
    directory: str
    command: tuple[str, ...]
    cwd: str
    supervisor_pid: int
    phase: str
    attempt: int
    pid: int
    ran_s: float
    state: str | None = None
    job_phase: str = "unknown"
    quiet_s: float | None = None
    limit_s: float | None = None
    last_progress: str | None = None
    last_progress_s: float | None = None
    reasons: tuple[str, ...] = ()
    degraded: tuple[str, ...] = ()
    status: str = ""
    is_paused: bool = False
    is_ending: bool = False
    restarts: int = 0
    incidents: int = 0
    next_attempt_s: float | None = None
