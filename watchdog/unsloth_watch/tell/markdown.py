"""``report.md``: ready to paste into an issue; the first screen answers, the rest proves."""

from __future__ import annotations

import html
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from unsloth_watch.tell.devices import tabulate_devices
from unsloth_watch.tell.graph import make_picture, tell_picture
from unsloth_watch.tell.markup import code, escape, fence, flatten, flatten_lines, mark_code, spare_mentions
from unsloth_watch.tell.moment import format_duration
from unsloth_watch.tell.quantity import format_quantity
from unsloth_watch.tell.story import (
    Report,
    is_hang,
    list_columns,
    tell_facts,
    tell_frame,
    tell_group,
    tell_headline,
    tell_machine,
    tell_marks,
    tell_members,
    tell_process,
    tell_summary,
    tell_value,
    tell_waits,
)

LIMITS = {
    "stacks": 18_000,
    "output": 6_000,
    "variables": 5_000,
    "kernel": 3_000,
    "command": 400,
    "summary": 1_000,
    "frame": 200,
    "graph": 6_000,
    "cell": 160,
    "step": 300,
}
"""Characters of each part: an issue's text may have 65,536 in all. The whole is in ``report.html`` and ``report.json``."""
OPEN_GROUPS = 3
"""Stack groups that are shown open; the others are one click away."""
FRAMES = 30
"""Frames of a stack that a Markdown report shows; the whole is in ``stacks/`` and in the HTML."""
ROWS = 30
"""Rows of a table."""


def render_markdown(report: Report) -> str:
    """Return the report as GitHub-flavoured Markdown; everything foreign is escaped or fenced.

    Args:
        report: The object of ``report.json``.
    """
    return "\n".join(_list_lines(report)) + "\n"


def _clip(text: str, part: str) -> str:
    limit = LIMITS[part]
    return text if len(text) <= limit else text[:limit] + " …"


def _clip_front(text: str, part: str) -> str:
    limit = LIMITS[part]
    return text if len(text) <= limit else "… " + text[-limit:]


def _list_lines(report: Report) -> Iterator[str]:
    yield f"# {escape(tell_headline(report))}"
    yield ""
    yield f"> {escape(_clip(tell_summary(report), 'summary'))}"
    yield ""
    yield "| | |"
    yield "|---|---|"
    for label, pieces in tell_facts(report):
        clipped = [(kind, _clip(words, "command")) for kind, words in pieces]
        shown = ", ".join(code(words, is_cell=True) if kind == "code" else escape(words) for kind, words in clipped)
        yield f"| **{label}** | {shown} |"
    yield ""
    nothing = "nothing; the remedy holds." if is_hang(report) else "nothing; no hang was called."
    yield "**Next:** " + (" · ".join(mark_code(step) for step in report["next_steps"]) or nothing)
    yield ""
    yield f"<sub>unsloth-watch, run {code(report['incident']['run'])}, incident {report['incident']['number']}</sub>"
    yield ""
    yield from _list_why(report)
    yield from _list_proof(report["verdict"]["proof"])
    yield from _list_remedies(report["remedies"])
    yield from _list_stacks(report["stack_groups"])
    yield from _list_waits(report)
    yield from _list_processes(report["processes"])
    yield from _list_signals(report["signals"])
    for title, rows in (("GPU", tabulate_devices(report["gpu"])), ("Caches", report["caches"]), ("File locks", report["locks"])):
        yield from _list_values(title, rows)
    if report["kernel_log"]:
        yield from _fold("Kernel messages", fence(_clip_front("\n".join(report["kernel_log"]), "kernel")))
    yield from _fold("Last output", fence(_clip_front(report["output_tail"], "output") or "(none)"))
    yield from _list_environment(report)
    yield from _list_values("Earlier incidents with the same fingerprint", report["previous"])


def _list_why(report: Report) -> Iterator[str]:
    diagnosis = report["diagnosis"]
    yield "## Evidence"
    yield ""
    for one in diagnosis["evidence"]:
        yield f"- {escape(one['statement'])} ({code(one['source'])})"
    if not diagnosis["evidence"]:
        yield "- none supports any cause"
    if diagnosis["refuted_by"]:
        yield f"- It would be wrong if: {escape(diagnosis['refuted_by'])}"
    for alternative in diagnosis["alternatives"]:
        yield f"- Weighed and left: {escape(alternative)}"
    for phrase in report["missing"]:
        yield f"- Missing: {escape(phrase)}"
    yield ""


def _list_proof(steps: Sequence[str]) -> Iterator[str]:
    if not steps:
        return
    yield "## How it was proven"
    yield ""
    # The conclusion is the last step: it stays where the middle of a long proof is left out.
    shown = steps if len(steps) <= ROWS else [*steps[: ROWS - 2], f"… {len(steps) - ROWS + 1} more in report.json", steps[-1]]
    for number, step in enumerate(shown, start=1):
        yield f"{number}. {escape(_clip(step, 'step'))}"
    yield ""


def _list_remedies(remedies: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not remedies:
        return
    yield "## Remedies"
    yield ""
    for remedy in remedies:
        done = ("applied" + (f": {escape(remedy['result'])}" if remedy["result"] else "")) if remedy["applied"] else "not applied"
        if not remedy["applied"] and remedy["result"]:
            done += f": {escape(remedy['result'])}"
        yield f"- {code(remedy['id'])} ({done}). {escape(remedy['why'])}"
        changes = [*remedy["change"], *([f"# undo: {remedy['undo']}"] if remedy["undo"] else [])]
        if changes:
            yield ""
            yield _indent(fence("\n".join(changes), "sh"))
    yield ""


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.split("\n"))


def _list_stacks(groups: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not groups:
        return
    yield "## Stacks"
    yield ""
    shown = [group for group in groups if not group["folded"]]
    for group in shown[:OPEN_GROUPS]:
        yield f"**{escape(_title_group(group))}**" + (f" — {escape(_clip(group['wait'], 'cell'))}" if group["wait"] else "")
        yield ""
        yield fence(_text_stack(group))
        yield ""
    left = LIMITS["stacks"] - sum(len(_text_stack(group)) for group in shown[:OPEN_GROUPS])
    for number, group in enumerate(shown[OPEN_GROUPS:], start=OPEN_GROUPS):
        left -= len(_text_stack(group))
        if left < 0:
            yield f"… and {len(shown) - number} more groups in report.html"
            yield ""
            break
        yield from _fold(_title_group(group), fence(_text_stack(group)))
    folded = [group for group in groups if group["folded"]]
    if folded:
        lines = [
            f"{tell_group(group)}: {group['folded']}" + (f" — {_clip(group['wait'], 'cell')}" if group["wait"] else "")
            for group in folded
        ]
        yield from _fold(f"{len(folded)} more groups: idle pools, monitors, threads without Python", fence("\n".join(lines)))


def _title_group(group: Mapping[str, Any]) -> str:
    marks = tell_marks(group)
    return tell_group(group) + (f" [{', '.join(marks)}]" if marks else "")


def _text_stack(group: Mapping[str, Any]) -> str:
    frames = [_clip(tell_frame(frame), "frame") for frame in group["frames"][:FRAMES]] or ["(no Python stack)"]
    hidden = len(group["frames"]) - FRAMES
    who = [f"# {tell_members(group)}"] if group["count"] > 1 else []
    return "\n".join(who + frames + ([f"… {hidden} more"] if hidden > 0 else []))


def _list_waits(report: Report) -> Iterator[str]:
    rows = tell_waits(report)
    if not rows:
        return
    yield "## Who waits for whom"
    yield ""
    picture = make_picture(report["waits"])
    if picture.boxes:
        yield fence(_clip(flatten_lines(tell_picture(picture)), "graph"))
        yield ""
    yield from _table(("Waits", "For"), [(escape(who), escape(_clip(whom, "cell"))) for who, whom in rows[:ROWS]])
    if len(rows) > ROWS:
        yield f"… and {len(rows) - ROWS} more in report.json"
        yield ""


def _list_processes(processes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    lines = []
    for process in processes[:ROWS]:
        command, state, wait = tell_process(process)
        rank = "" if process["rank"] is None else f" rank {process['rank']}"
        lines.append(
            f"{'  ' * process['depth']}{process['pid']}{rank} {state}{f' [{wait[:120]}]' if wait else ''}: {command[:160]}"
        )
    if len(processes) > ROWS:
        lines.append(f"… and {len(processes) - ROWS} more in report.json")
    yield from _fold(f"Processes ({len(processes)})", fence("\n".join(flatten(line) for line in lines)))


def _list_signals(signals: Mapping[str, Any]) -> Iterator[str]:
    if not signals["series"]:
        return
    start = signals["quiet_from"]
    rows = []
    for series in signals["series"]:
        before, after = _split(signals["times"], series["values"], start)
        rows.append((series["title"], _median(before, series["unit"]), _median(after, series["unit"])))
    yield "## Signals"
    yield ""
    yield from _table(("median", "until the last progress", "since then"), rows)
    span = format_duration(-signals["times"][0]) if signals["times"] else "0 s"
    yield f"Over the last {span}; the plots are in report.html."
    yield ""


def _split(times: Sequence[float], values: Sequence[float | None], start: float) -> tuple[list[float], list[float]]:
    pairs = [(time, value) for time, value in zip(times, values, strict=True) if value is not None]
    return [value for time, value in pairs if time <= start], [value for time, value in pairs if time > start]


def _median(values: Sequence[float], unit: str) -> str:
    return format_quantity(statistics.median(values), unit) if values else "–"


def _list_values(title: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not rows:
        return
    names = list_columns(rows)
    cells = [[escape(_clip(tell_value(name, row.get(name)), "cell")) for name in names] for row in rows[:ROWS]]
    yield from _fold(f"{title} ({len(rows)})", "\n".join(_table([escape(name) for name in names], cells)))


def _list_environment(report: Report) -> Iterator[str]:
    environment = report["environment"]
    blocks = []
    for title, values in (("versions", environment["versions"]), ("host", environment["host"])):
        blocks += [f"# {title}", *tell_machine(values)] if values else []
    if environment["variables"]:
        blocks += ["# variables", *(f"{name}={value}" for name, value in environment["variables"].items())]
    if environment["variables_left_out"]:
        blocks.append(f"# {environment['variables_left_out']} other variables are left out")
    yield from _fold("Environment", fence(_clip("\n".join(flatten(line) for line in blocks), "variables")))
    reproduce = report["reproduce"]
    lines = [
        f"cd {shlex.quote(reproduce['cwd'])}",
        *(f"export {name}={shlex.quote(value)}" for name, value in reproduce["variables"].items()),
    ]
    yield from _fold("Reproduce", fence(_clip("\n".join([*lines, reproduce["command"]]), "variables"), "sh"))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def _fold(title: str, body: str) -> Iterator[str]:
    # Inside an HTML block Markdown's escapes would be shown: HTML's are right there.
    yield f"<details><summary>{html.escape(spare_mentions(title))}</summary>"
    yield ""
    yield body
    yield ""
    yield "</details>"
    yield ""
