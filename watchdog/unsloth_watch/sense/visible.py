"""Which devices a process may use: ``CUDA_VISIBLE_DEVICES`` as CUDA reads it.

Source of the rules: CUDA C++ Programming Guide, environment variables. Only the environment that a process was started with can be
read; one that it sets for itself later cannot, so "visible" is a bound from above.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

from unsloth_watch.sense.nvml import Device

_VARIABLES = (b"CUDA_VISIBLE_DEVICES=", b"CUDA_DEVICE_ORDER=")
_MOST_PROCESSES = 64
"""Environments read at most: ranks differ, their hundreds of workers do not."""


def select_visible(value: str | None, order: str | None, devices: Sequence[Device]) -> frozenset[int]:
    """Return the places of the devices that a process may use.

    Args:
        value: ``CUDA_VISIBLE_DEVICES``: a list of indices or UUID prefixes that ends at its first invalid entry; None for unset.
        order: ``CUDA_DEVICE_ORDER``; None for unset. Unless it is ``PCI_BUS_ID``, CUDA counts the fastest first, which is NVML's
            order only where all cards are of one model; elsewhere an index could be any card.
        devices: In NVML's order; a MIG instance carries its parent's index.
    """
    everything = frozenset(range(len(devices)))
    if value is None:
        return everything
    chosen: set[int] = set()
    for entry in value.split(","):
        word = entry.strip()
        if word.isdecimal():
            if order != "PCI_BUS_ID" and len({device.name for device in devices}) > 1:
                return everything
            matches = {place for place, device in enumerate(devices) if device.index == int(word)}
        elif word.startswith(("GPU-", "MIG-")):
            matches = {place for place, device in enumerate(devices) if device.uuid.startswith(word)}
        else:
            matches = set()
        if not matches:
            break
        chosen |= matches
    return frozenset(chosen)


def read_visible(pids: Collection[int], devices: Sequence[Device]) -> frozenset[int]:
    """Return the places of the devices that any of the processes may use; all of them where no environment can be read."""
    found: set[int] = set()
    was_read = False
    for pid in sorted(pids)[:_MOST_PROCESSES]:
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                entries = file.read().split(b"\0")
        except OSError:
            continue  # it ended, or is another user's
        if entries == [b""]:
            continue  # a zombie, or one that has no environment to tell
        was_read = True
        value, order = (
            next((os.fsdecode(entry[len(name) :]) for entry in entries if entry.startswith(name)), None) for name in _VARIABLES
        )
        found |= select_visible(value, order, devices)
    return frozenset(found) if was_read else frozenset(range(len(devices)))
