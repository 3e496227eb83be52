"""Xid faults: what NVIDIA's driver says when a GPU fails, what it means, and what NVIDIA's catalogue says to do.

Source: NVIDIA, "Analyzing Xid Errors with the Xid Catalog" (docs.nvidia.com/deploy/xid-errors), edition of October 2025, column
"immediate action". Only what can stop a training job is listed; every other number is told as unknown, with the catalogue's place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

CATALOGUE = "https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html"
_LINE = re.compile(r"NVRM: Xid \(PCI:([0-9A-Fa-f:.]+)\): (\d+)(?:, pid='?(\d+))?")

ACTIONS = {
    "RESTART_APP": "start the job again",
    "RESET_GPU": "reset the GPU while nothing uses it (nvidia-smi --gpu-reset), or reboot",
    "RESTART_BM": "reboot the machine",
    "RESTART_VM": "restart the virtual machine",
    "CHECK_MECHANICALS": "check the power cables of the card",
    "CONTACT_SUPPORT": "ask the vendor",
    "CHECK_NVLINK": "check the NVLink connections and the fabric manager, then reset the GPU",
    "WORKFLOW": "follow the catalogue's own workflow for it; resetting the GPU is a part of that",
    "IGNORE": "nothing by itself",
    "FOLLOW_OTHER": "see the Xid that came before it",
    "FOLLOW_RECOVERY_ACTION": "do what the line itself says (none, reset, reboot)",
}
"""The catalogue's actions in words."""


class Xid(msgspec.Struct, frozen=True, array_like=True):
    """A kind of fault.

    Attributes:
        number: Xid.
        meaning: What it says.
        action: Key of ``ACTIONS``: the catalogue's immediate action.
    """

    number: int
    meaning: str
    action: str


_KNOWN = (
    Xid(8, "the GPU stopped processing", "RESTART_APP"),
    Xid(11, "invalid or corrupted commands were sent to the GPU", "RESTART_APP"),
    Xid(13, "a kernel raised an exception, such as an access out of bounds", "RESTART_APP"),
    Xid(25, "invalid or illegal commands were sent to the GPU", "RESTART_APP"),
    Xid(31, "GPU memory page fault: a kernel touched an address that is not its own", "RESTART_APP"),
    Xid(32, "invalid or corrupted commands were sent to the GPU", "RESTART_APP"),
    Xid(39, "a copy engine raised an exception", "RESTART_APP"),
    Xid(43, "the GPU stopped processing for a process whose own fault it was", "IGNORE"),
    Xid(44, "an engine fault during a context switch", "IGNORE"),
    Xid(45, "the work of a process was removed after an earlier error or its end", "FOLLOW_OTHER"),
    Xid(46, "the GPU stopped processing and does not answer", "RESET_GPU"),
    Xid(48, "uncorrectable (double bit) memory error", "WORKFLOW"),
    Xid(54, "auxiliary power is not connected to the card", "CHECK_MECHANICALS"),
    Xid(62, "an internal micro-controller halted", "RESET_GPU"),
    Xid(63, "bad memory was replaced by spare rows", "IGNORE"),
    Xid(64, "bad memory could not be replaced by spare rows", "RESET_GPU"),
    Xid(69, "the graphics engine met an unknown class of commands", "RESTART_APP"),
    Xid(74, "NVLink error", "CHECK_NVLINK"),
    Xid(79, "the GPU has fallen off the bus", "RESTART_BM"),
    Xid(80, "corrupted data was sent to the GPU", "RESTART_APP"),
    Xid(92, "many correctable memory errors", "IGNORE"),
    Xid(94, "a memory error was contained to one process", "RESTART_APP"),
    Xid(95, "a memory error was not contained: every process on the GPU is affected", "RESET_GPU"),
    Xid(109, "a context switch timed out", "RESET_GPU"),
    Xid(110, "security fault", "RESET_GPU"),
    Xid(119, "the GPU's own processor (GSP) does not answer the driver", "RESET_GPU"),
    Xid(120, "the GPU's own processor (GSP) failed", "RESET_GPU"),
    Xid(121, "error on the link between the chips", "IGNORE"),
    Xid(136, "an NVLink could not be trained", "RESET_GPU"),
    Xid(137, "NVLink privilege error: another GPU's process failed, or touched what is not its own", "IGNORE"),
    Xid(140, "unrecovered memory error", "RESET_GPU"),
    Xid(143, "the GPU could not be initialised", "RESET_GPU"),
    Xid(151, "a key could not be rotated (confidential computing)", "RESTART_VM"),
    Xid(154, "the action that is needed to recover the GPU has changed", "FOLLOW_RECOVERY_ACTION"),
    Xid(155, "NVLink error reported by software", "RESET_GPU"),
    Xid(156, "a resource of the GPU was retired", "RESET_GPU"),
    Xid(158, "the GPU timed out fatally", "RESET_GPU"),
    *(Xid(number, "NVLink error", "CHECK_NVLINK") for number in range(144, 151)),
)
XIDS = {xid.number: xid for xid in _KNOWN}
"""Known kinds by number."""


class Fault(msgspec.Struct, frozen=True):
    """One fault of a device, from the kernel's log.

    Attributes:
        bus: PCI address of the device as the driver writes it.
        number: Xid.
        pid: Process that it hit; None where the driver does not know.
    """

    bus: str
    number: int
    pid: int | None = None


def describe_xid(number: int) -> str:
    """Return what a number means and what to do, as a phrase after ``Xid N``."""
    known = XIDS.get(number)
    if known is None:
        return f"Xid {number} (look it up: {CATALOGUE})"
    return f"Xid {number}: {known.meaning}; NVIDIA's catalogue: {ACTIONS[known.action]}"


def find_faults(lines: Iterable[str]) -> tuple[Fault, ...]:
    """Return the faults in lines of the kernel's log, in their order.

    Args:
        lines: Such as ``NVRM: Xid (PCI:0000:1a:00): 31, pid=4711, name=python, Ch 00000008, …``.
    """
    found = (_LINE.search(line) for line in lines)
    return tuple(Fault(match[1], int(match[2]), int(match[3]) if match[3] else None) for match in found if match)
