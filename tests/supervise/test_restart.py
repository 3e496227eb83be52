"""The restart policy: never the same hang unchanged, each remedy once, limits kept."""

from __future__ import annotations

import pytest

from unsloth_watch.model.diagnosis import Diagnosis, Remedy, Status
from unsloth_watch.supervise.crash import Crash, Kind, classify
from unsloth_watch.supervise.phase import Phase, move
from unsloth_watch.supervise.restart import (
    LONGEST_DELAY_S,
    MOST_REPAIRS,
    UNCHANGED,
    Decision,
    History,
    count_repair,
    count_restart,
    decide_after_crash,
    decide_after_hang,
    may_repair,
    remember,
    remember_crash,
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


def test_nothing_is_moved_aside_on_a_hypothesis_and_it_gets_one_relaunch_as_a_guess() -> None:
    guess = Diagnosis("cause", "t", "s", Status.HYPOTHESIS, 0.4, remedies=(SECOND,), fingerprint="f" * 16)
    decision = decide(History(), guess)
    assert (decision.is_restart, decision.remedy) == (True, None)
    assert not decide(remember(History(), guess.fingerprint, UNCHANGED), guess).is_restart
    assert decide(History(), diagnosis(SECOND)).remedy == SECOND


def test_a_live_repair_is_not_made_again_in_vain_nor_again_and_again() -> None:
    history = History()
    for _ in range(MOST_REPAIRS):
        assert may_repair(history, "f", "drain")
        history = count_repair(history, "f")
    assert not may_repair(history, "f", "drain")
    assert may_repair(history, "another", "drain")
    assert not may_repair(remember(History(), "f", "drain"), "f", "drain")


def crash(words: str, code: int = 1, signum: int | None = None) -> Crash:
    return classify(code, signum, words)


@pytest.mark.parametrize(
    ("words", "code", "signum", "kind"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", 1, None, Kind.DETERMINISTIC),
        ("ModuleNotFoundError: No module named 'unsloht'", 1, None, Kind.DETERMINISTIC),
        ("usage: train.py\ntrain.py: error: unrecognized arguments: --lr", 2, None, Kind.DETERMINISTIC),
        ('  File "train.py", line 3\n    x = (\nSyntaxError: unexpected EOF', 1, None, Kind.DETERMINISTIC),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'train.jsonl'", 1, None, Kind.DETERMINISTIC),
        ("OSError: [Errno 28] No space left on device", 1, None, Kind.DETERMINISTIC),
        ("", 127, None, Kind.DETERMINISTIC),
        ("requests.exceptions.ReadTimeout: Read timed out. (read timeout=10)", 1, None, Kind.TRANSIENT),
        ("torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:2356", 1, None, Kind.TRANSIENT),
        ("huggingface_hub.errors.HfHubHTTPError: 503 Server Error: Service Unavailable", 1, None, Kind.TRANSIENT),
        ("huggingface_hub.errors.GatedRepoError: 401 Client Error", 1, None, Kind.DETERMINISTIC),
        ("step 41/100", 137, 9, Kind.TRANSIENT),
        ("step 41/100", 135, 7, Kind.TRANSIENT),
        ("step 41/100", 139, 11, Kind.UNKNOWN),
        ("RuntimeError: something odd", 1, None, Kind.UNKNOWN),
        ("ImportError: old news\n" + "at work\n" * 60 + "RuntimeError: odd", 1, None, Kind.UNKNOWN),
    ],
)
def test_a_crash_is_told_by_its_last_words(words: str, code: int, signum: int | None, kind: Kind) -> None:
    found = crash(words, code, signum)
    assert found.kind is kind, found.why


def test_an_unknown_crash_gets_one_more_attempt_and_none_in_the_same_words() -> None:
    first, same = crash("RuntimeError: lost worker 17"), crash("RuntimeError: lost worker 4711")
    assert first.signature == same.signature
    assert decide_after_crash(History(), first, max_restarts=3, chance=lambda: 0.5).is_restart
    again = decide_after_crash(remember_crash(History(), first.signature), same, max_restarts=3, chance=lambda: 0.5)
    assert not again.is_restart
    assert not again.is_limit
    limited = decide_after_crash(History(restarts=3), first, max_restarts=3, chance=lambda: 0.5)
    assert limited.is_limit


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
