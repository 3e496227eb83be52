"""What the first relaunch of each hanging program of the zoo is: not refused where it would help, and with no remedy for others."""

from __future__ import annotations

import msgspec
import pytest

from diagnose.recordedcases import HUNG, NAMES, case_of
from unsloth_watch.diagnose import Case, diagnose
from unsloth_watch.model.diagnosis import Diagnosis
from unsloth_watch.model.evidence import Descriptor
from unsloth_watch.supervise.restart import History, decide_after_hang
from zoo_reading import Program, read_zoo

pytestmark = pytest.mark.quick

RECORDED = [one for one in read_zoo() if one.is_hang and f"zoo-{one.name}" in NAMES]


def first(found: Diagnosis) -> tuple[bool, str]:
    decision = decide_after_hang(History(), found, max_restarts=3, chance=lambda: 0.5)
    return decision.is_restart, decision.why.partition(":")[0]


@pytest.mark.parametrize("program", RECORDED, ids=lambda one: one.name)
def test_what_a_relaunch_may_cure_is_relaunched_and_what_waits_for_a_strangers_lock_is_not(program: Program) -> None:
    found = diagnose(case_of(f"zoo-{program.name}", HUNG))
    assert first(found)[0] is (found.cause != "lock-held-elsewhere")


def with_card(case: Case) -> Case:
    card = Descriptor(fd=99, target="/dev/nvidia0")
    processes = tuple(msgspec.structs.replace(one, descriptors=(*(one.descriptors or ()), card)) for one in case.evidence.processes)
    return msgspec.structs.replace(case, evidence=msgspec.structs.replace(case.evidence, processes=processes))


@pytest.mark.parametrize("name", ["zoo-hang_gloo_mismatch", "zoo-hang_gloo_rank_missing"])
def test_ranks_without_a_card_get_no_setting_of_nccl(name: str) -> None:
    case = case_of(name, HUNG)
    assert first(diagnose(case)) == (True, "relaunch")
    assert first(diagnose(with_card(case))) == (True, "nccl-without-p2p")
