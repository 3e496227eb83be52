"""The attempts to come: with which remedies, after how long, and not before the GPU memory of the last one is free."""

from __future__ import annotations

import os

from unsloth_watch.supervise import clock
from unsloth_watch.supervise.restart import (
    UNCHANGED,
    Decision,
    History,
    count_repair,
    count_restart,
    decide_after_crash,
    decide_after_hang,
    may_repair,
    refuse,
    remember,
    remember_crash,
)
from unsloth_watch.tell.directory import find_base

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unsloth_watch.supervise.incident import Investigation
    from unsloth_watch.supervise.release import ReleaseWait
    from unsloth_watch.supervise.run import Run

_CRASH_TAIL_BYTES = 16 * 1024
"""Bytes at the end of the output in which a crash is looked for."""
_SETTLE_S = 1.0
"""Longest wait for the last words of a command that failed, seconds."""
_RELEASE_TICK_S = 0.1
"""Seconds between looks whether the wait for GPU memory has come to its end; its own news comes sooner."""


class Relaunch:
    """Decides about the next attempt, and prepares it.

    Args:
        run: The run.

    Attributes:
        history: What was tried.
        at: When the next attempt is due, monotonic seconds.
        remedied: Variables that remedies set for all attempts to come; None unsets.
    """

    def __init__(self, run: Run) -> None:
        self.history = History()
        self.at = 0.0
        self.remedied: dict[str, str | None] = {}
        self._run = run
        self._release: ReleaseWait | None = None

    def may_repair(self, fingerprint: str, repair_id: str) -> bool:
        """Whether a live repair of an incident is worth it."""
        return may_repair(self.history, fingerprint, repair_id)

    def count_repair(self, fingerprint: str) -> None:
        """Count a live repair of an incident."""
        self.history = count_repair(self.history, fingerprint)

    def remember(self, fingerprint: str, remedy_id: str) -> None:
        """Remember that a remedy of an incident was used up."""
        self.history = remember(self.history, fingerprint, remedy_id)

    def decide_after_hang(self, investigation: Investigation) -> Decision:
        """Return whether a job that hung is relaunched; the next remedy that can be applied has been, then.

        Args:
            investigation: The incident; told what was applied.
        """
        from unsloth_watch.supervise.remedy import apply_remedy, leave_unchanged  # noqa: PLC0415 - only after a hang

        run, diagnosis, attempt = self._run, investigation.diagnosis, self._run.attempt + 1
        while True:
            decision = decide_after_hang(self.history, diagnosis, max_restarts=run.settings.max_restarts, chance=draw_chance)
            if not decision.is_restart:
                return decision
            remedy = decision.remedy
            self.remember(diagnosis.fingerprint, remedy.id if remedy is not None else UNCHANGED)
            if remedy is None:
                investigation.set_outcome(leave_unchanged(attempt, decision.why))
                return decision
            outcome, changes = apply_remedy(run, remedy, attempt)
            investigation.set_outcome(outcome)
            self.remedied.update(changes)
            if outcome.applied:
                return decision
            self.history = refuse(self.history, diagnosis.fingerprint, remedy.id)

    def decide_after_crash(self, code: int, signum: int | None) -> Decision:
        """Return whether a job that ended with a failure of its own is relaunched.

        Args:
            code: Its exit status, as a shell says it.
            signum: The signal that ended it, None where none did.
        """
        from unsloth_watch.supervise.crash import classify  # noqa: PLC0415 - only after a crash

        run = self._run
        if run.relay is not None:
            run.relay.settle(_SETTLE_S)
        tail = run.relay.tail(_CRASH_TAIL_BYTES).decode("utf-8", "replace") if run.relay is not None else ""
        crash = classify(code, signum, tail)
        decision = decide_after_crash(self.history, crash, max_restarts=run.settings.max_restarts, chance=draw_chance)
        self.history = remember_crash(self.history, crash.signature)
        return decision

    def forget_crash(self) -> None:
        """Remember that the newest attempt ended by no crash."""
        self.history = remember_crash(self.history, None)

    def schedule(self, decision: Decision, now: float) -> None:
        """Make the next attempt due after its backoff.

        Args:
            decision: Says so.
            now: Monotonic seconds.
        """
        run = self._run
        self.history = count_restart(self.history, ran_s=now - run.job.began)
        run.chronicle.event("restart.scheduled", delay_s=decision.delay_s, why=decision.why)
        self.at = now + decision.delay_s
        if run.watch is not None:
            from unsloth_watch.supervise.release import begin_release  # noqa: PLC0415 - only before another attempt

            self._release = begin_release(run.watch.recent_samples(), run.poller.wake_fd)

    def schedule_at_once(self, why: str, now: float) -> None:
        """Make the next attempt due now; no limit counts it.

        Args:
            why: The reason, one phrase.
            now: Monotonic seconds.
        """
        self._run.chronicle.event("restart.scheduled", delay_s=0.0, why=why)
        self.at = now

    def next_look(self) -> float:
        """Return when to look again whether the next attempt can be started, monotonic seconds."""
        return self.at if self._release is None else max(self.at, clock.monotonic() + _RELEASE_TICK_S)

    def is_due(self, now: float) -> bool:
        """Whether the next attempt can be started.

        Args:
            now: Monotonic seconds.
        """
        return now >= self.at and not self._is_releasing()

    def next_environment(self) -> dict[str, str]:
        """Return the user's environment with the places of the caches and what remedies have changed so far."""
        launch = self._run.launch
        environment = {**launch.environment, **launch.isolation.variables}
        for name, value in self.remedied.items():
            if value is None:
                environment.pop(name, None)
            else:
                environment[name] = value
        return environment

    def private_directory(self) -> str:
        """Return the directory for caches of this project alone: outlives the run, so that the next one finds them warm."""
        from hashlib import sha256  # noqa: PLC0415 - only after a hang

        launch = self._run.launch
        state = os.path.dirname(find_base(launch.environment))
        project = sha256(os.fsencode(launch.cwd)).hexdigest()[:12]
        return os.path.join(state, "caches", project)

    def _is_releasing(self) -> bool:
        """Whether GPU memory of the ended attempt is still waited for; tells what became of it when not."""
        if self._release is None:
            return False
        if not self._release.is_done:
            return True
        found, self._release = self._release.result(), None
        devices = list(found.devices) if found.why is None else [found.why]
        self._run.chronicle.event("gpu.released", is_free=found.is_free, seconds=round(found.seconds, 3), devices=devices)
        state = "free" if found.is_free else "not seen to be free"
        self._run.response.note(f"GPU memory was {state} {found.seconds:.1f} s after the last process: {'; '.join(devices)}")
        return False


def draw_chance() -> float:
    """Return a random number in [0, 1)."""
    return int.from_bytes(os.urandom(4), "little") / 2**32
