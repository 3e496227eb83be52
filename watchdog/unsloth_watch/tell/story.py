"""The words of a report that Markdown and HTML share: they differ in their marks, never in what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unsloth_watch.tell.devices import tabulate_devices
from unsloth_watch.tell.groups import format_ranges
from unsloth_watch.tell.moment import format_duration
from unsloth_watch.tell.quantity import format_quantity

Report = Mapping[str, Any]

STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "uninterruptible wait",
    "T": "stopped",
    "t": "traced",
    "Z": "zombie",
    "X": "dead",
    "I": "idle",
}
"""State letters of the kernel in words."""


def tell_headline(report: Report) -> str:
    """Return the title: what hung, in the words of the diagnosis."""
    if not is_hang(report):
        return f"Evidence that was asked for; the job counts as {report['verdict']['state']}"
    return report["diagnosis"]["title"] or f"Hang: {report['diagnosis']['cause']}"


def tell_summary(report: Report) -> str:
    """Return the sentence below the title; where nothing was called a hang, a cause is only what the stacks would suggest."""
    summary = str(report["diagnosis"]["summary"])
    if is_hang(report):
        return summary
    return "No hang was called." + (f" What the stacks suggest by themselves, if it were one: {summary}" if summary else "")


def is_hang(report: Report) -> bool:
    """Whether the judge called it a hang, or only evidence was asked for."""
    return bool(report["verdict"]["state"] == "hung")


def tell_facts(report: Report) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the first screen as label and pieces; a piece is (``code`` or ``text``, words)."""
    incident, verdict, diagnosis = report["incident"], report["verdict"], report["diagnosis"]
    facts = [
        (
            "What hung" if is_hang(report) else "What runs",
            [("code", report["reproduce"]["command"]), ("text", f"attempt {incident['attempt']}, phase {incident['phase']}")],
        ),
        ("Where", _tell_culprit(diagnosis["culprit"])),
        ("Why", [("code", diagnosis["cause"]), ("text", tell_status(diagnosis))]),
        ("Since" if is_hang(report) else "Quiet since", [("text", tell_since(verdict))]),
        ("Last progress", [("text", tell_progress(verdict))]),
        ("How sure", [("text", tell_certainty(verdict))]),
        ("Done", [("text", "; ".join(tell_actions(report)) or "nothing yet")]),
    ]
    return [(label, [piece for piece in pieces if piece[1]]) for label, pieces in facts]


def tell_status(diagnosis: Mapping[str, Any]) -> str:
    """Return how firmly the cause stands."""
    words = {
        "established": "established: the evidence leaves no other reading",
        "supported": "supported by several independent pieces of evidence",
        "hypothesis": "a hypothesis: it would explain what is seen",
        "unknown": "no cause is supported by the evidence",
    }
    status = words.get(diagnosis["status"], diagnosis["status"])
    return status if diagnosis["status"] == "unknown" else f"{status} (confidence {diagnosis['confidence']:.0%})"


def tell_since(verdict: Mapping[str, Any]) -> str:
    """Return when the work stood still and how long that was before the verdict."""
    return f"{verdict['since'][:19].replace('T', ' ')} UTC, {format_duration(verdict['quiet_s'])} before the verdict"


def tell_progress(verdict: Mapping[str, Any]) -> str:
    """Return the last evidence that the work got further."""
    progress = verdict["last_progress"]
    return f"{progress['detail']} ({progress['kind']})" if progress else "none was ever seen"


def tell_certainty(verdict: Mapping[str, Any]) -> str:
    """Return whether the hang was proven or waited out, and what that rests on."""
    reasons = "; ".join(verdict["reasons"])
    if verdict["state"] != "hung":
        return f"not called a hang: the evidence was asked for, and the judge said {verdict['state']}; {reasons}"
    if verdict["proven"]:
        return "proven" + (f": {reasons}" if reasons else "")
    return f"waited out: no progress for longer than {format_duration(verdict['limit_s'])}" + (f"; {reasons}" if reasons else "")


def tell_actions(report: Report) -> list[str]:
    """Return what the supervisor did: remedies with their results, and its other acts."""
    remedies = [
        f"applied {remedy['id']}" + (f" ({remedy['result']})" if remedy["result"] else "")
        for remedy in report["remedies"]
        if remedy["applied"]
    ]
    return [*report["incident"]["actions"], *remedies]


def _tell_culprit(culprit: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if culprit is None:
        return [("text", "unknown")]
    pieces = [("code", culprit[name]) for name in ("frame", "path", "peer") if culprit[name]]
    whose = [f"thread {culprit['thread']}"] if culprit["thread"] else []
    whose += [f"PID {culprit['pid']}"] if culprit["pid"] is not None else []
    whose += [f"rank {culprit['rank']}"] if culprit["rank"] is not None else []
    return [*pieces, ("text", ", ".join(whose) or ("" if pieces else culprit["kind"]))]


def tell_group(group: Mapping[str, Any]) -> str:
    """Return a group's headline: who is in it."""
    members = group["members"]
    first = members[0]
    if group["ranks"]:
        who = f"rank{'s' if any(sign in group['ranks'] for sign in '–,') else ''} {group['ranks']}"
        who += f" ({_count(group['processes'], 'process', 'processes')})" if group["processes"] > 1 else f" (PID {first['pid']})"
    elif group["count"] == 1:
        who = f"PID {first['pid']}, {first['thread'] or 'thread'}"
    elif group["processes"] == 1:
        who = f"PID {first['pid']}, {group['count']} threads"
    elif group["processes"] == group["count"]:
        who = f"{group['processes']} processes"
    else:
        who = f"{group['count']} threads of {_count(group['processes'], 'process', 'processes')}"
    return who


def tell_marks(group: Mapping[str, Any]) -> list[str]:
    """Return what is special about a group: ``culprit``, ``outlier``, or why it is folded."""
    marks = [name for name, is_set in (("culprit", group["is_culprit"]), ("outlier", group["is_outlier"])) if is_set]
    return marks + ([group["folded"]] if group["folded"] else [])


def tell_members(group: Mapping[str, Any], limit: int = 24) -> str:
    """Return the members' PIDs and thread names, at most ``limit`` of them."""
    names = [_name_member(member) for member in group["members"][:limit]]
    more = len(group["members"]) - limit
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")


def _name_member(member: Mapping[str, Any]) -> str:
    name = f"{member['pid']}" if member["pid"] == member["tid"] else f"{member['pid']}/{member['tid']} {member['thread']}"
    return name + (" (GIL)" if member["has_gil"] else "")


def tell_frame(frame: Mapping[str, Any]) -> str:
    """Return ``function (file:line)``, as everywhere."""
    place = f"{frame['file']}:{frame['line']}" if frame["line"] else frame["file"]
    return f"{frame['function']} ({place})"


def tell_waits(report: Report) -> list[tuple[str, str]]:
    """Return rows of who waits for what: the culprit's first, and those who wait for the same in one row."""
    ranks = {process["pid"]: process["rank"] for process in report["processes"]}
    culprit = (report["diagnosis"]["culprit"] or {}).get("pid")
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for edge in sorted(report["waits"], key=lambda edge: edge["pid"] != culprit):
        name = "" if edge["is_main"] else edge["thread"] or ""
        rows.setdefault(f"{name}\0{_tell_wait(edge)}", []).append(edge)
    return [(_tell_waiters(edges, ranks), _tell_wait(edges[0])) for edges in rows.values()]


def _tell_waiters(edges: Sequence[Mapping[str, Any]], ranks: Mapping[int, int | None]) -> str:
    first = edges[0]
    thread = f" {first['thread']}" if first["thread"] and not first["is_main"] else ""
    known = [rank for edge in edges if (rank := ranks.get(edge["pid"])) is not None]
    if len(edges) == 1:
        return f"PID {first['pid']}{thread}" + (f" (rank {known[0]})" if known else "")
    if len(known) == len(edges):
        return f"ranks {format_ranges(known)}{thread} ({len(edges)} processes)"
    return f"PID {format_ranges(edge['pid'] for edge in edges)}{thread} ({len(edges)} processes)"


def _tell_wait(edge: Mapping[str, Any]) -> str:
    pids = [pid for pid in edge["pids"] if f"PID {pid}" not in edge["for"]]
    shown = ", ".join(str(pid) for pid in pids[:8]) + (f" and {len(pids) - 8} more" if len(pids) > 8 else "")
    words = edge.get("words")
    what = f"{words} ({edge['for']})" if words and words not in edge["for"] else str(edge["for"])
    return what + (f" → PID {shown}" if pids else "")


def tell_process(process: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return a row of the process table: command, state in words, what it waits in."""
    command = " ".join(process["command"]) if process["command"] else process["executable"] or "?"
    return command, STATES.get(process["state"], process["state"]), process["wait"] or ""


def tell_value(name: str, value: object) -> str:
    """Return one plain value of a table: bytes with their unit, yes and no, lists and maps on one line."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)) and name.endswith("_bytes"):
        return format_quantity(value, "B")
    if isinstance(value, (list, tuple)):
        return "; ".join(tell_value("", item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={tell_value(str(key), item)}" for key, item in value.items() if item not in (None, False, "", []))
    return str(value)


def tell_machine(values: Mapping[str, str]) -> list[str]:
    """Return lines of versions or of the host, sorted; sizes of memory with their unit."""
    return [f"{name}: {_tell_size(name, value)}" for name, value in sorted(values.items())]


def _tell_size(name: str, value: str) -> str:
    is_size = name.startswith(("memory_", "shm_", "swap_", "cgroup_memory_")) and value.isdecimal()
    return format_quantity(int(value), "B") if is_size else value


def list_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns of a table that hold anything."""
    return [name for name in rows[0] if any(row.get(name) not in (None, "", [], ()) for row in rows)]


def list_sections(report: Report) -> Sequence[tuple[str, Sequence[Mapping[str, Any]]]]:
    """Return the tables of plain values: devices, caches, locks, earlier incidents."""
    return [
        ("GPU", tabulate_devices(report["gpu"])),
        ("Caches", report["caches"]),
        ("File locks", report["locks"]),
        ("Earlier", report["previous"]),
    ]


def tell_stacks(groups: Sequence[Mapping[str, Any]]) -> str:
    """Return the title above the stacks: how many there are."""
    threads = sum(group["count"] for group in groups)
    return f"Stacks: {_count(threads, 'thread', 'threads')} in {_count(len(groups), 'group', 'groups')}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
