"""Reads the state of a run at this moment: values that already are in memory, so it costs microseconds."""

from __future__ import annotations

import os

from unsloth_watch.model.live import SCHEMA, LiveState
from unsloth_watch.supervise.phase import Phase

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unsloth_watch.supervise.run import Run


def read_now(run: Run, now: float) -> LiveState:
    """Return what a run is doing.

    Args:
        run: The run.
        now: Monotonic seconds.
    """
    verdict = run.watch.verdict if run.watch is not None and not run.is_paused else None
    progress = verdict.last_progress if verdict is not None else None
    moved_at = run.watch.moved_at if run.watch is not None and verdict is not None else None
    return LiveState(
        schema=SCHEMA,
        id=run.launch.directory.id,
        directory=run.launch.directory.path,
        command=run.launch.command,
        cwd=run.launch.cwd,
        supervisor_pid=os.getpid(),
        phase=run.phase.value,
        attempt=run.attempt,
        pid=run.job.root.pid,
        ran_s=round(now - run.job.began, 3),
        state=verdict.state.value if verdict is not None else None,
        job_phase=verdict.phase if verdict is not None else "unknown",
        quiet_s=round(verdict.quiet_s, 3) if verdict is not None else None,
        limit_s=round(verdict.limit_s, 3) if verdict is not None else None,
        last_progress=progress.detail if progress is not None else None,
        last_progress_s=round(max(0.0, now - moved_at), 3) if moved_at is not None else None,
        reasons=verdict.reasons if verdict is not None else (),
        degraded=verdict.degraded if verdict is not None else (),
        status=run.launch.heartbeat.status,
        is_paused=run.is_paused,
        is_ending=run.interrupts.is_ending,
        restarts=run.relaunch.history.restarts,
        incidents=len(run.chronicle.record.incidents),
        next_attempt_s=round(max(0.0, run.relaunch.at - now), 3) if run.phase is Phase.WAITING else None,
    )
