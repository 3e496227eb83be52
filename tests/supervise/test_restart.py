"""The restart policy: never the same hang unchanged, each remedy once, limits kept."""

from __future__ import annotations

import pytest

from unsloth_watch.model.diagnosis import Diagnosis, Remedy, Status
from unsloth_watch.supervise.phase import Phase, move
from unsloth_watch.supervise.restart import (
    LONGEST_DELAY_S,
    UNCHANGED,
    Decision,
    History,
    count_restart,
    decide_after_hang,
    remember,
)

pytestmark = pytest.mark.quick

FIRST = Remedy("first", "why", "environment", environment={"A": "1"})
SECOND = Remedy("second", "why", "filesystem", quarantine=("/x",))
ADVICE = Remedy("buy", "why", "advice", advice="buy a disk")


def diagnosis(*remedies: Remedy, fingerprint: str = "f" * 16) -> Diagnosis:
    return Diagnosis("cause", "t", "s", Status.ESTABLISHED, 0.9, remedies=remedies, fingerprint=fingerprint)


def decide(history: History, found: Diagnosis, limit: int = 3) -> Decision:
    return decide_after_hang(history, found, max_restarts=limit, chance=lambda: 0.5)


def test_remedies_are_taken_in_order_each_once_and_then_the_run_ends() -> None:
    history, found = History(), diagnosis(ADVICE, FIRST, SECOND)
    for expected in (FIRST, SECOND):
        decision = decide(history, found)
        assert decision.remedy == expected
        history = remember(history, found.fingerprint, expected.id)
    last = decide(history, found)
    assert not last.is_restart
    assert "after first, second" in last.why


def test_another_fingerprint_starts_its_own_ladder() -> None:
    history = remember(History(), "0" * 16, FIRST.id)
    assert decide(history, diagnosis(FIRST)).remedy == FIRST


def test_only_a_diagnosis_that_asks_for_it_is_relaunched_unchanged_and_only_once() -> None:
    found = diagnosis(Remedy(UNCHANGED, "why", "environment"))
    decision = decide(History(), found)
    assert decision.is_restart
    assert decision.remedy is None
    assert not decide(remember(History(), found.fingerprint, UNCHANGED), found).is_restart


def test_advice_alone_is_no_reason_for_a_relaunch_and_is_said() -> None:
    decision = decide(History(), diagnosis(ADVICE))
    assert not decision.is_restart
    assert "buy a disk" in decision.why


def test_the_limit_counts_and_the_backoff_grows_to_its_cap_and_starts_afresh_after_a_healthy_attempt() -> None:
    assert not decide(History(restarts=3), diagnosis(FIRST)).is_restart
    history, delays = History(), []
    for _ in range(9):
        delays.append(decide(history, diagnosis(FIRST), limit=99).delay_s)
        history = count_restart(history, ran_s=5)
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST_DELAY_S
    assert decide(count_restart(history, ran_s=3600), diagnosis(FIRST), limit=99).delay_s < 5


def test_an_illegal_move_is_a_defect() -> None:
    assert move(Phase.RUNNING, Phase.CAPTURING) is Phase.CAPTURING
    with pytest.raises(RuntimeError, match="from finished to running"):
        move(Phase.FINISHED, Phase.RUNNING)
