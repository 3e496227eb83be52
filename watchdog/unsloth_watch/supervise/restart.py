"""The restart policy: whether another attempt is worth its hours, with which remedy, and after how long. Pure."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from unsloth_watch.model.diagnosis import Diagnosis, Remedy

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 60.0
JITTER = 0.2
"""Part of the delay by which it varies, so that many jobs of one host do not return in step."""
HEALTHY_S = 600.0
"""An attempt that ran for so long before its incident starts the backoff afresh."""


class History(msgspec.Struct, frozen=True):
    """What was tried in this run.

    Attributes:
        restarts: Relaunches so far.
        streak: Relaunches since the last attempt that was healthy for long; sets the backoff.
        tried: Remedies applied, by fingerprint of the incident.
    """

    restarts: int = 0
    streak: int = 0
    tried: dict[str, tuple[str, ...]] = {}


class Decision(msgspec.Struct, frozen=True):
    """What happens next.

    Attributes:
        is_restart: Whether there is another attempt.
        why: The reason, one phrase.
        delay_s: Backoff in seconds.
        remedies: To apply before it, in order.
    """

    is_restart: bool
    why: str
    delay_s: float = 0.0
    remedies: tuple[Remedy, ...] = ()


def decide_after_hang(history: History, diagnosis: Diagnosis, *, max_restarts: int, chance: Callable[[], float]) -> Decision:
    """Return whether to relaunch a job that hung.

    The same incident is never relaunched unchanged: each time its next remedy is taken, and when there is none left the run
    ends. An incident without any remedy is given one unchanged relaunch (a third of blind relaunches succeed).

    Args:
        history: What was tried.
        diagnosis: The cause, with its remedies, least invasive first.
        max_restarts: The user's limit.
        chance: Returns a number in [0, 1) for the jitter.
    """
    if history.restarts >= max_restarts:
        return Decision(False, f"--max-restarts {max_restarts} is reached")
    tried = history.tried.get(diagnosis.fingerprint)
    left = [remedy for remedy in diagnosis.remedies if remedy.kind != "live" and remedy.id not in (tried or ())]
    if left:
        return Decision(True, f"{diagnosis.cause}: {left[0].why}", _delay(history, chance), (left[0],))
    if tried is not None:
        done = f"with {', '.join(tried)}" if tried else "after an unchanged relaunch"
        return Decision(False, f"the same hang came back {done}, and nothing else is known to help")
    return Decision(True, f"{diagnosis.cause}: no remedy is known; one relaunch unchanged", _delay(history, chance))


def decide_after_crash(history: History, exit_code: int, *, max_restarts: int, chance: Callable[[], float]) -> Decision:
    """Return whether to relaunch a job that ended with a failure of its own."""
    if history.restarts >= max_restarts:
        return Decision(False, f"--max-restarts {max_restarts} is reached")
    return Decision(True, f"the command ended with status {exit_code}", _delay(history, chance))


def record(history: History, decision: Decision, fingerprint: str | None, *, ran_s: float) -> History:
    """Return the history after a relaunch was decided; ``ran_s`` is how long the attempt before it ran."""
    tried = dict(history.tried)
    if fingerprint is not None:
        tried[fingerprint] = (*tried.get(fingerprint, ()), *(remedy.id for remedy in decision.remedies))
    streak = 1 if ran_s >= HEALTHY_S else history.streak + 1
    return History(history.restarts + 1, streak, tried)


def _delay(history: History, chance: Callable[[], float]) -> float:
    delay = min(FIRST_DELAY_S * 2.0**history.streak, LONGEST_DELAY_S)
    return round(delay * (1 + JITTER * (2 * chance() - 1)), 3)
