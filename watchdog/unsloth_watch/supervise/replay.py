"""A recorded run judged again: by the settings that it ran with, or by others."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import msgspec

from unsloth_watch.errors import WatchError
from unsloth_watch.judge.memory import Memory
from unsloth_watch.judge.patience import renew
from unsloth_watch.judge.rules import Rules
from unsloth_watch.judge.verdict import judge
from unsloth_watch.model.sample import Sample
from unsloth_watch.model.verdict import State, Verdict
from unsloth_watch.tell.records import RunRecord

AGREE_S = 0.002
"""Quiet seconds by which a replayed hang may differ from the recorded one: events round to a millisecond."""


class Hang(msgspec.Struct, frozen=True):
    """A stretch of the recording that is called hung.

    Attributes:
        at_s: When it was first called so, seconds into the attempt's recording.
        quiet_s: Quiet seconds then.
        limit_s: Quiet seconds that were allowed then.
        proven: Whether it was proven.
        reasons: What the verdict rests on.
        last_progress: The last thing that moved before; None if nothing ever did.
        resumed_s: When it moved again, seconds into the recording: the verdict would have been wrong. None if it never did.
        resumed_by: What moved then.
    """

    at_s: float
    quiet_s: float
    limit_s: float
    proven: bool
    reasons: tuple[str, ...]
    last_progress: str | None = None
    resumed_s: float | None = None
    resumed_by: str | None = None


class Change(msgspec.Struct, frozen=True):
    """A change of the judge's mind: when, seconds into the attempt's recording, and to what."""

    at_s: float
    state: State


class AttemptReplay(msgspec.Struct, frozen=True):
    """One attempt, judged again.

    Attributes:
        attempt: Its number.
        samples: How many samples there are.
        seconds: How long the recording is.
        hangs: Where it is called hung.
        changes: Every change of state.
        quiet_s: Quiet seconds at the end of the recording.
        longest_quiet_s: Longest quiet seconds of any verdict, computing without progress included.
        state: The last word.
    """

    attempt: int
    samples: int
    seconds: float
    hangs: tuple[Hang, ...]
    changes: tuple[Change, ...]
    quiet_s: float
    longest_quiet_s: float
    state: State


def rules_of(record: RunRecord, stall_s: float | None, busy_s: float | None) -> Rules:
    """Return the rules that a run was judged by, with other timeouts where they are given.

    Raises:
        WatchError: The record does not say what the run was judged by.
    """
    try:
        stall, busy = record.settings["stall-timeout"].value, record.settings["busy-timeout"].value
    except KeyError as error:
        raise WatchError(f"run.json has no {error.args[0]}; it is of another version") from None
    return Rules(stall_s=float(stall) if stall_s is None else stall_s, busy_s=float(busy) if busy_s is None else busy_s)


def judge_again(samples: Iterable[Sample], rules: Rules) -> Iterator[tuple[Sample, Verdict]]:
    """Yield each sample with its verdict, every attempt from an empty memory."""
    memory, attempt = Memory(), None
    for sample in samples:
        if sample.attempt != attempt:
            memory, attempt = Memory(), sample.attempt
        if sample.is_renewed:
            memory = renew(memory)
        memory, verdict = judge(memory, sample, rules)
        yield sample, verdict


def replay(samples: Iterable[Sample], rules: Rules) -> tuple[AttemptReplay, ...]:
    """Return what the judge would have said, attempt by attempt."""
    judged = judge_again(samples, rules)
    return tuple(_replay_attempt(number, tuple(group)) for number, group in itertools.groupby(judged, lambda one: one[0].attempt))


def _replay_attempt(number: int, judged: tuple[tuple[Sample, Verdict], ...]) -> AttemptReplay:
    begin = judged[0][0].at
    hangs: list[Hang] = []
    changes: list[Change] = []
    longest_s = 0.0
    before: Verdict | None = None
    for sample, verdict in judged:
        at_s = round(sample.at - begin, 3)
        is_new = before is None or before.state is not verdict.state
        if is_new:
            changes.append(Change(at_s, verdict.state))
        if is_new and verdict.state is State.HUNG:
            hangs.append(_describe(verdict, at_s))
        elif is_new and before is not None and before.state is State.HUNG:
            by = (
                verdict.last_progress.detail
                if verdict.state is State.PROGRESSING and verdict.last_progress
                else verdict.reasons[-1]
            )
            hangs[-1] = msgspec.structs.replace(hangs[-1], resumed_s=at_s, resumed_by=by)
        longest_s = max(longest_s, verdict.quiet_s)
        before = verdict
    last = judged[-1][1]
    seconds = round(judged[-1][0].at - begin, 3)
    return AttemptReplay(
        number, len(judged), seconds, tuple(hangs), tuple(changes), round(last.quiet_s, 3), round(longest_s, 3), last.state
    )


def _describe(verdict: Verdict, at_s: float) -> Hang:
    progress = verdict.last_progress.detail if verdict.last_progress is not None else None
    return Hang(at_s, round(verdict.quiet_s, 3), verdict.limit_s, verdict.is_proven, verdict.reasons, progress)


def find_disagreements(attempts: tuple[AttemptReplay, ...], events: Iterable[dict[str, object]]) -> list[str]:
    """Return what the run's own events say otherwise, one phrase each: nothing where it was judged by the same settings."""
    found = []
    replayed = {one.attempt: one.hangs for one in attempts}
    for event in events:
        if event.get("event") != "hang.detected":
            continue
        number, quiet_s = event.get("attempt"), event.get("quiet_s")
        hangs = replayed.get(number, ()) if isinstance(number, int) else ()
        is_same = isinstance(quiet_s, (int, float)) and any(
            abs(hang.quiet_s - quiet_s) <= AGREE_S and hang.proven == event.get("proven") for hang in hangs
        )
        if not is_same:
            proof = "proven" if event.get("proven") else "not proven"
            found.append(f"attempt {number} was called hung after {quiet_s} quiet seconds, {proof}; the replay does not say so")
    return found
