"""What the driver's faults mean."""

from __future__ import annotations

import pytest

from unsloth_watch.model.xid import ACTIONS, CATALOGUE, XIDS, Fault, describe_xid, find_faults

pytestmark = pytest.mark.quick

LOG = (
    "[12.000000] eth0: link up",
    "[4711.000001] NVRM: Xid (PCI:0000:1a:00): 31, pid=4711, name=python, Ch 00000008, intr 00000000. MMU Fault: ENGINE GRAPHICS",
    "[4712.000001] NVRM: Xid (PCI:0000:1a:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
    "[4713.000001] NVRM: Xid (PCI:0000:cb:00): 63, pid=1896, Row Remapper: New row marked for remapping",
)


def test_the_faults_of_a_log_are_found_in_order() -> None:
    assert find_faults(LOG) == (Fault("0000:1a:00", 31, 4711), Fault("0000:1a:00", 79), Fault("0000:cb:00", 63, 1896))


def test_every_known_fault_has_a_known_action() -> None:
    assert {xid.action for xid in XIDS.values()} <= ACTIONS.keys()
    assert all(number == xid.number for number, xid in XIDS.items())


def test_a_known_fault_is_told_with_its_action_and_an_unknown_one_with_the_place_to_look() -> None:
    assert describe_xid(79) == "Xid 79: the GPU has fallen off the bus; NVIDIA's catalogue: reboot the machine"
    assert CATALOGUE in describe_xid(9999)
