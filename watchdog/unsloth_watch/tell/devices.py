"""The GPUs of a report as one table for people: a row a fact, a column a device. The rest about them is in ``report.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unsloth_watch.tell.quantity import format_quantity

_SAMPLED = (
    ("own_utilization", "utilisation by the job", "%"),
    ("sm", "SMs active", "%"),
    ("tensor", "tensor cores", "% of peak"),
    ("dram", "memory traffic", "% of peak"),
    ("floor_dram", "memory traffic at rest", "% of peak"),
    ("pcie_rx", "PCIe to the device", "B/s"),
    ("pcie_tx", "PCIe from the device", "B/s"),
    ("floor_pcie", "PCIe at rest, both ways", "B/s"),
    ("own_memory_bytes", "memory of the job", "B"),
)
"""(field of the sample, what it is, its unit): what tells work from mere residence."""
_PLAIN = (("utilization", "utilisation", "%"), ("memory_bytes", "memory in use", "B"), ("power_w", "power", "W"))
"""The same for what a record tells better, where there is none."""
_RECORDED = (
    *("utilization", "memory", "power", "temperature", "sm_clock", "clocks_held_by", "performance_state", "pcie", "nvlinks"),
    *("ecc", "ecc_uncorrected_since_load", "ecc_uncorrected_ever", "remapped_rows", "remap_pending", "recovery_action"),
    *("mig", "driver", "cuda"),
)
"""Facts of a record that are worth a reader's time."""


def tabulate_devices(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return the table; empty without devices.

    Args:
        rows: ``gpu`` of a report.
    """
    columns = {f"GPU {row['index']}" + (" " * place): dict(_list_facts(row)) for place, row in enumerate(rows)}
    names = list(dict.fromkeys(name for facts in columns.values() for name in facts))
    return [{"fact": name, **{title: facts.get(name, "") for title, facts in columns.items()}} for name in names]


def _list_facts(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    record: Mapping[str, str] = row.get("record") or {}
    facts = [("model", record.get("name", "")), ("uuid", str(row["uuid"]))]
    facts += [("what is wrong", "; ".join(row.get("problems") or ())), ("used by", "; ".join(row.get("processes") or ()))]
    known = _SAMPLED if record else (*_PLAIN, *_SAMPLED)
    facts += [(words, format_quantity(row[name], unit)) for name, words, unit in known if row.get(name) is not None]
    if row.get("is_shared"):
        facts.append(("shared", "others use it too"))
    facts += [(name.replace("_", " "), record[name]) for name in _RECORDED if record.get(name)]
    return [(name, value) for name, value in facts if value]
