"""What the end of an attempt leads to: another attempt, with a remedy or without, or the end of the run."""

from __future__ import annotations

from unsloth_watch.errors import EXIT_GAVE_UP, EXIT_START_LIMIT, EXIT_SUPERVISOR
from unsloth_watch.supervise import clock
from unsloth_watch.supervise.job import Ending
from unsloth_watch.supervise.phase import Phase
from unsloth_watch.supervise.shutdown import HANG, RESTART

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unsloth_watch.supervise.restart import Decision
    from unsloth_watch.supervise.run import Run


def follow_end(run: Run, ending: Ending, now: float) -> None:
    """Handle the command's own end; whoever it left behind ends with it, as under systemd.

    Args:
        run: The run.
        ending: How it ended.
        now: Monotonic seconds.
    """
    run.response.hear_ending(ending)
    if not run.job.is_attached and _may_have_left_somebody(run):
        run.terminate("left behind by the command", now)
    else:
        _settle(run, ending)


def _may_have_left_somebody(run: Run) -> bool:
    """Whether anybody but the command itself is there, or that cannot be seen: then the end by force looks until it can."""
    try:
        return any(ref != run.job.root for ref in run.job.members())
    except OSError:
        return True


def follow_shutdown(run: Run, reason: str, now: float) -> None:
    """Handle an end by force, once all of the job is dead.

    Args:
        run: The run.
        reason: Why it was ended.
        now: Monotonic seconds.
    """
    ending = run.job.ending or Ending(None)
    if reason == HANG:
        investigation = run.response.investigation
        assert investigation is not None
        investigation.note(f"all of the job was dead {now - investigation.decided_at:.1f} s after the verdict")
        _go_on_after_hang(run, ending, now)
    elif reason == RESTART:
        _go_on_after_order(run, ending, now)
    else:
        _settle(run, ending)


def _settle(run: Run, ending: Ending) -> None:
    """Decide what the command's own end means."""
    # The status of a job that is not our child is its parent's to know, where the kernel does not tell it.
    unknown = 0 if run.job.is_attached else EXIT_SUPERVISOR
    code = ending.exit_code if ending.exit_code is not None else unknown
    run.interrupts.hear_last_press()
    is_interrupted = run.interrupts.is_ending
    if run.response.is_upshot and not is_interrupted:
        _go_on_after_hang(run, ending, clock.monotonic())
        return
    run.chronicle.attempt_finished(ending.exit_code, ending.signal_name, "interrupted" if is_interrupted else None)
    if code != 0 and not is_interrupted and "crash" in run.settings.restart_on:
        decision = run.relaunch.decide_after_crash(code, ending.signal)
        _follow_decision(run, decision, "failed", EXIT_START_LIMIT if decision.is_limit else code, clock.monotonic())
    else:
        run.finish("interrupted" if is_interrupted else "completed" if code == 0 else "failed", code)


def _go_on_after_hang(run: Run, ending: Ending, now: float) -> None:
    investigation = run.response.investigation
    assert investigation is not None
    run.chronicle.attempt_finished(ending.exit_code, ending.signal_name, HANG)
    run.relaunch.forget_crash()
    run.response.compare_with_past(investigation)
    if run.interrupts.is_ending:
        run.finish("interrupted", run.interrupts.exit_code)
    elif run.settings.on_hang == "stop":
        _refuse(run, "--on-hang stop", "hung", EXIT_GAVE_UP)
    elif "hang" not in run.settings.restart_on:
        _refuse(run, f"--restart-on {','.join(run.settings.restart_on)}", "hung", EXIT_GAVE_UP)
    else:
        _follow_decision(run, run.relaunch.decide_after_hang(investigation), "hung", EXIT_GAVE_UP, now)


def _go_on_after_order(run: Run, ending: Ending, now: float) -> None:
    run.chronicle.attempt_finished(ending.exit_code, ending.signal_name, RESTART)
    if run.interrupts.is_ending:
        run.finish("interrupted", run.interrupts.exit_code)
    else:
        run.relaunch.schedule_at_once(RESTART, now)
        run.enter(Phase.WAITING)


def _follow_decision(run: Run, decision: Decision, outcome: str, exit_code: int, now: float) -> None:
    """Wait for another attempt, or end the run with an outcome."""
    if decision.is_restart:
        run.relaunch.schedule(decision, now)
        run.enter(Phase.WAITING)
    else:
        _refuse(run, decision.why, outcome, exit_code)


def _refuse(run: Run, why: str, outcome: str, exit_code: int) -> None:
    run.chronicle.event("restart.refused", why=why)
    run.response.note(f"not started again: {why}")
    run.finish(outcome, exit_code)
