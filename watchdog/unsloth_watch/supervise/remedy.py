"""A remedy applied before the next attempt: what it changed, told, and how to undo it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from unsloth_watch.act.mend import apply
from unsloth_watch.model.diagnosis import Remedy
from unsloth_watch.supervise.quarantines import remember_quarantine
from unsloth_watch.supervise.restart import UNCHANGED
from unsloth_watch.tell.incident import RemedyOutcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    from unsloth_watch.act.change import Change
    from unsloth_watch.supervise.run import Run


def apply_remedy(run: Run, remedy: Remedy, attempt: int) -> tuple[RemedyOutcome, dict[str, str | None]]:
    """Apply a remedy for the next attempt.

    Args:
        run: The run; nobody of its job is left.
        remedy: What to do.
        attempt: Number of the next attempt.

    Returns:
        What became of it, and the variables that differ now. A remedy that fails is told, not raised.
    """
    before = run.relaunch.next_environment()
    quarantine_dir = os.path.join(run.launch.directory.path, "quarantine")
    applied = apply(
        remedy,
        before,
        private_dir=run.relaunch.private_directory(),
        quarantine_dir=quarantine_dir,
        is_anyone_alive=run.job.is_anyone_alive,
        cwd=run.launch.cwd,
        user=run.launch.environment,
        is_input_free=run.settings.sources.get("stdin", "default") == "default",
    )
    for change in applied.changes:
        run.chronicle.event(
            "remedy.applied",
            remedy=remedy.id,
            target=change.target,
            # The contract knows three kinds; a directory made and a file moved aside are both the file system's.
            kind="environment" if change.kind in ("environment", "stdin") else "filesystem",
            undo=change.undo,
            why=remedy.why,
        )
    keep_findable(run, applied.changes, quarantine_dir)
    for refusal in applied.refused:
        run.chronicle.complain(f"remedy {remedy.id}: {refusal}")
    is_applied = bool(applied.changes)
    result = "; ".join(filter(None, (f"attempt {attempt} runs with it" if is_applied else "", *applied.refused)))
    replaced = [f"{change.target}={change.before}" for change in applied.changes if change.target in run.launch.environment]
    if replaced:
        result += f"; in place of your own {', '.join(replaced)}, which is part of the cause"
    undo = "; ".join(change.undo for change in applied.changes if change.undo)
    run.launch.is_input_closed |= any(change.kind == "stdin" for change in applied.changes)
    after = applied.environment
    changed = {name: after.get(name) for name in {*before, *after} if before.get(name) != after.get(name)}
    return RemedyOutcome(remedy, is_applied, result or "nothing was left to change", undo), changed


def keep_findable(run: Run, changes: Iterable[Change], quarantine_dir: str) -> None:
    """See to it that ``cache list`` finds what was moved aside; where that fails it is said, and the report has the undo."""
    if not any(change.kind == "quarantine" for change in changes):
        return
    try:
        remember_quarantine(quarantine_dir, run.launch.environment)
    except OSError as error:
        run.chronicle.complain(f"cache list will not show {quarantine_dir}: {error.strerror or error}")


def leave_unchanged(attempt: int, why: str) -> RemedyOutcome:
    """Return the outcome of a relaunch that changes nothing: that is a remedy too, and may be the one that helps.

    Args:
        attempt: Number of the next attempt.
        why: The reason, one phrase.
    """
    return RemedyOutcome(Remedy(UNCHANGED, why, "environment"), True, f"attempt {attempt} runs unchanged")
