"""A live repair of one incident: made beside the loop, told, and judged by whether the work moves again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from unsloth_watch.model.diagnosis import Remedy
from unsloth_watch.supervise import clock
from unsloth_watch.supervise.remedy import keep_findable
from unsloth_watch.supervise.worker import Task
from unsloth_watch.tell.incident import RemedyOutcome

if TYPE_CHECKING:
    from unsloth_watch.act.live import Performed
    from unsloth_watch.model.repair import Repair
    from unsloth_watch.supervise.incident import Investigation
    from unsloth_watch.supervise.run import Run

_LIMIT_S = 10.0
"""Longest wait for the act itself: milliseconds, unless a file system does not answer."""
_LAST_WAIT_S = 3.0
"""Longest wait for it when the command has ended meanwhile: a widened pipe is watched for one second."""


class LiveRepair:
    """One repair; the evidence was taken before.

    Args:
        run: The run.
        investigation: The incident.
        repair: What to do.

    Attributes:
        is_told: Whether its result has been told, so that the judge's word counts from here.

    Raises:
        OSError: The job cannot be listed: who is no member must not be touched.
    """

    def __init__(self, run: Run, investigation: Investigation, repair: Repair) -> None:
        from unsloth_watch.act.live import Room, perform  # noqa: PLC0415 - only after a hang

        self.is_told = False
        self._run, self._investigation, self._repair = run, investigation, repair
        self._remedy = Remedy(repair.id, repair.why, "live")
        self._undo = ""
        self._is_applied = False
        self._began = clock.monotonic()
        self._room = room = Room(
            members=run.job.members(),
            # A job that outlives us must not be left with a reader that only we would let go on.
            keep_dir=None if run.job.is_attached else os.path.join(investigation.directory, "kept"),
            quarantine_dir=os.path.join(run.launch.directory.path, "quarantine"),
            complain=run.chronicle.complain,
        )
        self._task: Task[Performed] = Task(lambda: perform(repair, room), run.poller.wake_fd)

    @property
    def id(self) -> str:
        """Name of the remedy."""
        return self._repair.id

    @property
    def is_done(self) -> bool:
        """Whether the act has ended, or our patience with it."""
        return self._task.is_done or clock.monotonic() - self._began > _LIMIT_S

    @property
    def is_refused(self) -> bool:
        """Whether it is over and nothing was changed."""
        return self.is_told and not self._is_applied

    def is_holding(self, patience_s: float) -> bool:
        """Whether a process is held still by us while bytes come from another: its silence is ours, not its own.

        Args:
            patience_s: Seconds without a byte after which that is over.
        """
        now = clock.monotonic()
        return any(not drain.is_done and now - drain.moved_at < patience_s for drain in self._room.drains)

    def wait(self) -> None:
        """Wait for the act; once the command has ended, and for moments only."""
        self._task.wait(_LAST_WAIT_S)

    def tell(self) -> bool:
        """Tell what was changed; return whether anything was."""
        self.is_told = True
        chronicle = self._run.chronicle
        try:
            if not self._task.is_done:
                raise TimeoutError(f"not done after {_LIMIT_S:.0f} s")
            performed = self._task.result()
        except Exception as error:  # a repair that fails costs its rung, never the run: the kill comes next, and the report has why
            self._note(f"failed: {type(error).__name__}: {error}")
            chronicle.complain(f"live repair {self.id} failed: {error}")
            return False
        for change in performed.changes:
            chronicle.event(
                "remedy.applied", remedy=self.id, target=change.target, kind="live", undo=change.undo, why=self._repair.why,
                before=change.before, after=change.after,
            )  # fmt: skip
        keep_findable(self._run, performed.changes, self._room.quarantine_dir)
        for refusal in performed.refused:
            chronicle.complain(f"live repair {self.id}: {refusal}")
        self._undo = "; ".join(change.undo for change in performed.changes if change.undo)
        changed = "; ".join(f"{change.target}: {change.before or 'nothing'} → {change.after}" for change in performed.changes)
        self._is_applied = bool(performed.changes)
        self._note("; ".join(filter(None, (changed, *performed.refused))))
        return self._is_applied

    def succeed(self, progress: str) -> None:
        """Tell that the work moves again, and by what that shows."""
        after_s = clock.monotonic() - self._began
        self._run.chronicle.event(
            "hang.repaired",
            cause=self._investigation.diagnosis.cause,
            remedy=self.id,
            progress=progress,
            incident=self._investigation.number,
            after_s=round(after_s, 3),
        )
        self._note(f"the work moved again after {after_s:.1f} s, nothing was ended: {progress}", worked=True)

    def fail(self, why: str) -> None:
        """Remember that it was in vain."""
        self._note(why, worked=False)

    def _note(self, result: str, *, worked: bool | None = None) -> None:
        if worked is None:  # what came of it stands with the remedy
            self._investigation.note(f"live repair {self.id}: {result}")
        self._investigation.set_outcome(RemedyOutcome(self._remedy, self._is_applied, result, self._undo, worked))
