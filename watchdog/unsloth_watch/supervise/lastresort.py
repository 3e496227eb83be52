"""The end of a run whose own way to the end has a fault: the command's status is told all the same, and nobody is left behind."""

from __future__ import annotations

from collections.abc import Callable

from unsloth_watch.errors import EXIT_GAVE_UP, EXIT_SUPERVISOR
from unsloth_watch.supervise.phase import WATCHED, Phase
from unsloth_watch.supervise.shutdown import HANG, RESTART
from unsloth_watch.supervise.voice import say_directly

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unsloth_watch.supervise.run import Run

MOST_FAULTS = 3
"""Faults on the way to the end after which the run is over; whoever lives then ends with the guardian, whose socket closes."""


def follow_fault(run: Run, error: Exception, number: int, now: float) -> None:
    """Go on after a fault of ours on the way from one attempt to what comes next; never raises.

    Args:
        run: The run.
        error: The fault.
        number: Which one it is, from 1.
        now: Monotonic seconds.
    """
    _tell(run, error)
    if run.phase is Phase.FINISHED:
        return
    if run.phase in WATCHED and number == 1 and not run.job.is_attached:
        run.response.forget()
        try:
            run.terminate("left behind by the command", now)
        except Exception as again:  # the end by force has the fault as well: it is told, and the run is over
            _tell(run, again)
        else:
            return
    if run.phase is Phase.TERMINATING and number < MOST_FAULTS and run.job.is_anyone_alive():
        return  # the next look goes on with it
    run.finish(*_judge_end(run))


def take_steps(run: Run, *steps: Callable[[], object]) -> None:
    """Take all steps, each of them whatever became of those before; a fault is told.

    Args:
        run: The run.
        steps: The steps.
    """
    for step in steps:
        try:
            step()
        except Exception as error:  # the others give back what the job, the terminal and the machine need: the fault is told
            _tell(run, error)


def _judge_end(run: Run) -> tuple[str, int]:
    """Return outcome and exit status of a run of which no more can be said than how its command ended."""
    if run.interrupts.is_ending:
        return "interrupted", run.interrupts.exit_code
    reason = run.shutdown.reason if run.shutdown is not None and run.phase is Phase.TERMINATING else None
    if reason == HANG:
        return "hung", EXIT_GAVE_UP
    code = run.job.ending.exit_code if run.job.ending is not None else None
    if reason == RESTART or code is None:
        return "error", EXIT_SUPERVISOR
    return "completed" if code == 0 else "failed", code


def _tell(run: Run, error: Exception) -> None:
    why = f"{type(error).__name__}: {error}; the run ends without what belongs to that; please report this"
    try:
        run.chronicle.event("sensor.degraded", sensor="end of the run", why=why)
    except Exception as again:  # the records themselves have the fault: then stderr alone is told
        say_directly(f"unsloth-watch: {why} ({type(again).__name__}: {again})\n".encode("utf-8", "replace"))
