"""The restart policy: whether another attempt is worth its hours, with which remedy, and after how long. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from unsloth_watch.model.diagnosis import Diagnosis, Remedy, Status
from unsloth_watch.supervise.crash import Crash, Kind

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 60.0
JITTER = 0.2
"""Part of the delay by which it varies, so that many jobs of one host do not return in step."""
_SURE = frozenset({Status.ESTABLISHED, Status.SUPPORTED})
UNCHANGED = "relaunch"
"""Id of the remedy that changes nothing."""
HEALTHY_S = 600.0
"""An attempt that ran for so long before its incident starts the backoff afresh."""
MOST_REPAIRS = 3
"""Live repairs of one fingerprint in one run: a server that stalls in every download is not worth a fourth."""


class History(msgspec.Struct, frozen=True):
    """What was tried in this run.

    Attributes:
        restarts: Relaunches so far.
        streak: Relaunches since the last attempt that was healthy for long; sets the backoff.
        tried: Remedies used up, by fingerprint of the incident; a live repair only once it was in vain.
        refused: Those of them that could not be applied, so that nothing came back after them.
        repairs: Live repairs made, by fingerprint.
        crash: Signature of the crash before; None where the attempt before did not crash.
    """

    restarts: int = 0
    streak: int = 0
    tried: dict[str, tuple[str, ...]] = {}
    refused: dict[str, tuple[str, ...]] = {}
    repairs: dict[str, int] = {}
    crash: str | None = None


class Decision(msgspec.Struct, frozen=True):
    """What happens next.

    Attributes:
        is_restart: Whether there is another attempt.
        why: The reason, one phrase.
        delay_s: Backoff in seconds.
        remedy: To apply before it; None for an unchanged relaunch.
        is_limit: Whether a limit of this program ends the run, rather than the cause itself.
    """

    is_restart: bool
    why: str
    delay_s: float = 0.0
    remedy: Remedy | None = None
    is_limit: bool = False


def is_applicable(remedy: Remedy, status: Status) -> bool:
    """Whether a remedy changes something by itself before a relaunch; others only advise a person, or mend a living job.

    Nothing is moved aside on a hypothesis: it may name a file that has nothing to do with the hang.
    """
    if remedy.quarantine and status not in _SURE:
        return False
    changes = remedy.environment or remedy.prepend_path or remedy.quarantine or remedy.make_directories or remedy.stdin
    return remedy.kind != "live" and bool(changes)


def decide_after_hang(history: History, diagnosis: Diagnosis, *, max_restarts: int, chance: Callable[[], float]) -> Decision:
    """Return whether to relaunch a job that hung.

    The same incident is never relaunched unchanged: each time its next remedy is taken, and when there is none left the run
    ends. Only a diagnosis that asks for it by the remedy ``relaunch``, or that is no more than a guess, gets one unchanged
    relaunch.

    Args:
        history: What was tried.
        diagnosis: The cause, with its remedies, least invasive first.
        max_restarts: The user's limit.
        chance: Returns a number in [0, 1) for the jitter.
    """
    if history.restarts >= max_restarts:
        return Decision(False, f"--max-restarts {max_restarts} is reached")
    tried = history.tried.get(diagnosis.fingerprint, ())
    left = [remedy for remedy in diagnosis.remedies if remedy.id not in tried]
    for remedy in left:
        if is_applicable(remedy, diagnosis.status):
            return Decision(True, f"{remedy.id}: {remedy.why}", _delay(history, chance), remedy)
        if remedy.id == UNCHANGED:
            return Decision(True, f"{remedy.id}: {remedy.why}", _delay(history, chance))
    if diagnosis.status not in _SURE and UNCHANGED not in tried:
        return Decision(True, f"{UNCHANGED}: {diagnosis.cause} is no more than a guess, and it may pass", _delay(history, chance))
    return Decision(False, _explain_end(history, diagnosis, tried, left))


def _explain_end(history: History, diagnosis: Diagnosis, tried: Sequence[str], left: Sequence[Remedy]) -> str:
    """Return why a hang ends the run: what was in vain, what could not be applied, or what a person may do."""
    refused = history.refused.get(diagnosis.fingerprint, ())
    done = [one for one in tried if one not in refused]
    if done:
        return f"the same hang came back after {', '.join(done)}, and nothing else is known to help"
    if refused:
        return f"{diagnosis.cause} would come back: {', '.join(refused)} could not be applied"
    advice = "; ".join(remedy.advice for remedy in left if remedy.advice)
    return f"{diagnosis.cause} would come back: {advice or 'no remedy is known'}"


def decide_after_crash(history: History, crash: Crash, *, max_restarts: int, chance: Callable[[], float]) -> Decision:
    """Return whether to relaunch a job that ended with a failure of its own.

    What would come back for sure is not tried again; what is not known gets one more attempt, unless it came back in the very same
    words; what may pass is tried up to the limit.
    """
    if crash.kind is Kind.DETERMINISTIC:
        return Decision(False, f"it would fail again: {crash.why}")
    if crash.kind is Kind.UNKNOWN and history.crash == crash.signature:
        return Decision(False, f"the same failure came back: {crash.why}")
    if history.restarts >= max_restarts:
        return Decision(False, f"--max-restarts {max_restarts} is reached", is_limit=True)
    expected = "it may pass" if crash.kind is Kind.TRANSIENT else "it may not come back"
    return Decision(True, f"{crash.why}; {expected}", _delay(history, chance))


def may_repair(history: History, fingerprint: str, repair_id: str) -> bool:
    """Whether a live repair of an incident is worth it: it was not in vain before, and not made again and again."""
    return repair_id not in history.tried.get(fingerprint, ()) and history.repairs.get(fingerprint, 0) < MOST_REPAIRS


def count_repair(history: History, fingerprint: str) -> History:
    """Return the history with one live repair more."""
    repairs = {**history.repairs, fingerprint: history.repairs.get(fingerprint, 0) + 1}
    return msgspec.structs.replace(history, repairs=repairs)


def remember_crash(history: History, signature: str | None) -> History:
    """Return the history in which the newest attempt crashed so; None where it did not crash."""
    return msgspec.structs.replace(history, crash=signature)


def remember(history: History, fingerprint: str, remedy_id: str) -> History:
    """Return the history in which a remedy of an incident was used up, whether or not it could be applied."""
    return msgspec.structs.replace(history, tried={**history.tried, fingerprint: (*history.tried.get(fingerprint, ()), remedy_id)})


def refuse(history: History, fingerprint: str, remedy_id: str) -> History:
    """Return the history in which a remedy that was used up could not be applied."""
    refused = (*history.refused.get(fingerprint, ()), remedy_id)
    return msgspec.structs.replace(history, refused={**history.refused, fingerprint: refused})


def count_restart(history: History, *, ran_s: float) -> History:
    """Return the history with one relaunch more; ``ran_s`` is how long the attempt before it ran, seconds."""
    streak = 1 if ran_s >= HEALTHY_S else history.streak + 1
    return msgspec.structs.replace(history, restarts=history.restarts + 1, streak=streak)


def _delay(history: History, chance: Callable[[], float]) -> float:
    delay = min(FIRST_DELAY_S * 2.0**history.streak, LONGEST_DELAY_S)
    return round(delay * (1 + JITTER * (2 * chance() - 1)), 3)
