"""``report.html``: one self-contained page without scripts or network; nothing of the job's output is ever interpreted."""

from __future__ import annotations

import html
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from unsloth_watch.tell.drawing import render_picture
from unsloth_watch.tell.graph import make_picture
from unsloth_watch.tell.plot import render_plot
from unsloth_watch.tell.story import (
    Report,
    is_hang,
    list_columns,
    list_sections,
    tell_facts,
    tell_frame,
    tell_group,
    tell_headline,
    tell_machine,
    tell_marks,
    tell_members,
    tell_process,
    tell_stacks,
    tell_summary,
    tell_value,
    tell_waits,
)

ROWS = 16
"""Rows of a table that are shown open; a longer one is folded."""
# Even if something slipped through the escaping, the page may load and run nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_BACKTICKS = re.compile(r"`([^`\n]+)`")
_STYLE = os.path.join(os.path.dirname(__file__), "assets", "report.css")


def render_html(report: Report) -> str:
    """Return the page.

    Args:
        report: The object of ``report.json``.
    """
    with open(_STYLE, encoding="utf-8") as stream:
        style = stream.read()
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_text(POLICY)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer">',
            f"<title>{_text(tell_headline(report))} · unsloth-watch</title>",
            f"<style>\n{style}</style></head>",
            "<body><main>",
            *_list_sections(report),
            "</main></body></html>",
            "",
        ]
    )


def _text(value: object) -> str:
    # Lone surrogates cannot be encoded; NUL would end the text in some readers.
    return html.escape(str(value).encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd"), quote=True)


def _prose(value: object) -> str:
    """Return a sentence; what stands between backticks is code."""
    return _BACKTICKS.sub(r"<code>\1</code>", _text(value))


def _code(value: object) -> str:
    return f"<code>{_text(value)}</code>"


def _list_sections(report: Report) -> Iterator[str]:
    yield from _list_top(report)
    yield from _list_evidence(report)
    yield from _list_proof(report["verdict"]["proof"])
    yield from _list_remedies(report["remedies"])
    yield from _list_stacks(report)
    yield from _list_waits(report)
    yield from _list_signals(report["signals"])
    yield from _list_processes(report)
    yield _heading("Last output")
    yield f'<pre tabindex="0">{_text(report["output_tail"] or "(none)")}</pre>'
    yield _heading("Details")
    for title, rows in list_sections(report):
        if rows:
            count = len(report["gpu"]) if title == "GPU" else len(rows)  # that table has a column a card
            yield _fold(f'<span class="who">{_text(title)}</span>{_badge(count)}', _values_table(rows))
    if report["kernel_log"]:
        yield _fold('<span class="who">Kernel messages</span>', _pre(report["kernel_log"]))
    yield from _list_environment(report)
    incident = report["incident"]
    yield (
        f"<footer>unsloth-watch · run {_code(incident['run'])} · incident {_text(incident['number'])} · verdict at "
        f"{_text(incident['at'])} · fingerprint {_code(report['fingerprint'] or 'none')}</footer>"
    )


def _list_top(report: Report) -> Iterator[str]:
    verdict, diagnosis = report["verdict"], report["diagnosis"]
    is_repaired = any(remedy["worked"] and remedy["kind"] == "live" for remedy in report["remedies"])
    yield f'<header class="top{" calm" if is_repaired or not is_hang(report) else ""}"><div class="badges">'
    if is_hang(report):
        yield _badge("hang", "bad")
        yield _badge("proven", "bad") if verdict["proven"] else _badge("not proven, waited out", "warn")
    else:
        yield _badge("evidence asked for")
        yield _badge(verdict["state"], "good" if verdict["state"] == "progressing" else "warn")
    yield _badge(diagnosis["cause"], "id")
    yield _badge(diagnosis["status"], "good" if diagnosis["status"] in ("established", "supported") else "warn")
    if is_repaired:
        yield _badge("repaired without a kill", "good")
    yield f"</div><h1>{_text(tell_headline(report))}</h1>"
    yield f'<p class="summary">{_prose(tell_summary(report))}</p><dl class="facts">'
    for label, pieces in tell_facts(report):
        shown = ", ".join(_code(words) if kind == "code" else _text(words) for kind, words in pieces)
        yield f"<dt>{_text(label)}</dt><dd>{shown}</dd>"
    yield "</dl></header>"
    steps = report["next_steps"] or ["Nothing: the remedy holds." if is_hang(report) else "Nothing: no hang was called."]
    yield f'<section class="next"><h2>What to do next</h2>{_list(steps)}</section>'


def _list_signals(signals: Mapping[str, Any]) -> Iterator[str]:
    if not signals["series"]:
        return
    yield _heading("Signals")
    marks = signals["marks"]
    legend = "".join(f'<span><i class="{_text(mark["id"])}"></i>{_text(mark["label"])}</span>' for mark in marks)
    yield f'<p class="legend">{legend}<span>shaded: no progress</span></p>'
    yield f'<div class="plots">{"".join(render_plot(series, signals) for series in signals["series"])}</div>'


def _list_evidence(report: Report) -> Iterator[str]:
    diagnosis = report["diagnosis"]
    yield _heading("Evidence")
    lines = [f'{_prose(one["statement"])} <span class="source">— {_text(one["source"])}</span>' for one in diagnosis["evidence"]]
    lines += [f"<b>It would be wrong if:</b> {_prose(diagnosis['refuted_by'])}"] if diagnosis["refuted_by"] else []
    lines += [f"<b>Weighed and left:</b> {_prose(one)}" for one in diagnosis["alternatives"]]
    lines += [f"<b>Missing:</b> {_text(one)}" for one in report["missing"]]
    items = "".join(f"<li>{line}</li>" for line in lines) or "<li>none supports any cause</li>"
    yield f'<div class="card"><ul class="plain">{items}</ul></div>'


def _list_proof(steps: Sequence[str]) -> Iterator[str]:
    if steps:
        yield _heading("How it was proven")
        yield f'<div class="card"><ol>{"".join(f"<li>{_prose(step)}</li>" for step in steps)}</ol></div>'


def _list_remedies(remedies: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if remedies:
        yield _heading("Remedies")
    for remedy in remedies:
        state = _badge("applied", "good") if remedy["applied"] else _badge("not applied")
        result = f" {_text(remedy['result'])}" if remedy["result"] else ""
        lines = [*remedy["change"], *([f"# undo: {remedy['undo']}"] if remedy["undo"] else [])]
        change = f"<pre>{_text(chr(10).join(lines))}</pre>" if lines else ""
        yield f'<div class="card">{_code(remedy["id"])} {state}{result}<br>{_text(remedy["why"])}{change}</div>'


def _list_stacks(report: Report) -> Iterator[str]:
    groups = report["stack_groups"]
    if not groups:
        return
    culprit = report["diagnosis"]["culprit"] or {}
    shown = [group for group in groups if not group["folded"]]
    folded = [group for group in groups if group["folded"]]
    yield _heading(tell_stacks(groups))
    for number, group in enumerate(shown):
        is_open = group["is_culprit"] or group["is_outlier"] or number == 0
        yield _render_group(group, culprit.get("frame"), is_open=is_open)
    if folded:
        body = "".join(_render_group(group, None, is_open=False) for group in folded)
        yield _fold(f'<span class="who">Idle pools, monitors, threads without Python</span>{_badge(len(folded))}', body)


def _render_group(group: Mapping[str, Any], blamed: str | None, *, is_open: bool) -> str:
    kinds = {"culprit": "bad", "outlier": "warn"}
    badges = "".join(_badge(mark, kinds.get(mark, "")) for mark in tell_marks(group))
    count = _badge(f"×{group['count']}") if group["count"] > 1 else ""
    top = tell_frame(group["frames"][0]) if group["frames"] else group["wait"] or "no Python stack"
    title = f'<span class="who">{_text(tell_group(group))}</span>{count}{badges}<span class="what mono">{_text(top)}</span>'
    members = f'<p class="members">{_text(tell_members(group))}</p>' if group["count"] > 1 else ""
    wait = f'<p class="members">Waits: {_text(group["wait"])}</p>' if group["wait"] else ""
    frames = "".join(_render_frame(frame, blamed) for frame in group["frames"])
    name = "culprit" if group["is_culprit"] else "outlier" if group["is_outlier"] else ""
    return _fold(title, f'{members}{wait}<ol class="stack">{frames}</ol>', name=name, is_open=is_open)


def _render_frame(frame: Mapping[str, Any], blamed: str | None) -> str:
    names = [name for name, is_set in (("native", frame["native"]), ("blamed", tell_frame(frame) == blamed)) if is_set]
    place = f"{frame['file']}:{frame['line']}" if frame["line"] else frame["file"]
    values = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in frame.get("locals", {}).items())
    shown = f"<dl>{values}</dl>" if values else ""
    return f'<li class="{" ".join(names)}"><b>{_text(frame["function"])}</b> <span>{_text(place)}</span>{shown}</li>'


def _list_waits(report: Report) -> Iterator[str]:
    rows = [f'<tr><td class="mono">{_text(who)}</td><td>{_text(whom)}</td></tr>' for who, whom in tell_waits(report)]
    if not rows:
        return
    yield _heading("Who waits for whom")
    picture = make_picture(report["waits"])
    if picture.arrows:
        notes = (
            "Dashed: one of several." if any(not arrow.is_sure for arrow in picture.arrows) else "",
            f"{picture.idle} idle or waiting by the clock are left out." if picture.idle else "",
            f"{picture.left_out} more are in the table." if picture.left_out else "",
        )
        yield f'<div class="card wide">{render_picture(picture)}<p class="members">{" ".join(filter(None, notes))}</p></div>'
    yield _long_table(("Waits", "For"), rows, "waits")


def _list_processes(report: Report) -> Iterator[str]:
    processes = report["processes"]
    if not processes:
        return
    yield _heading("Processes")
    blamed = (report["diagnosis"]["culprit"] or {}).get("pid")
    has_ranks = any(process["rank"] is not None for process in processes)
    rows = []
    for process in processes:
        command, state, wait = tell_process(process)
        depth = f'<span class="depth">{"│ " * min(process["depth"], 12)}</span>' if process["depth"] else ""
        cells = (
            f'<td class="mono">{depth}{_text(process["pid"])}</td>',
            *([f'<td class="short">{_text("" if process["rank"] is None else process["rank"])}</td>'] if has_ranks else []),
            f'<td class="short">{_text(state)}</td>',
            f"<td>{_text(wait)}</td>",
            f"<td>{_text(process['threads'])}</td>",
            f"<td>{_code(command[:300])}</td>",
        )
        rows.append(f"<tr{' class=blamed' if process['pid'] == blamed else ''}>{''.join(cells)}</tr>")
    yield _long_table(("PID", *(["Rank"] if has_ranks else []), "State", "Waits", "Threads", "Command"), rows, "processes")


def _long_table(head: Sequence[str], rows: Sequence[str], noun: str) -> str:
    table = _table(head, rows)
    return table if len(rows) <= ROWS else _fold(f'<span class="who">{len(rows)} {noun}</span>', table)


def _list_environment(report: Report) -> Iterator[str]:
    environment, reproduce = report["environment"], report["reproduce"]
    for title, values in (("Versions", environment["versions"]), ("Host", environment["host"])):
        if values:
            yield _fold(f'<span class="who">{title}</span>', _pre(tell_machine(values)))
    lines = [f"{name}={value}" for name, value in environment["variables"].items()]
    left_out = [f"# {environment['variables_left_out']} other variables are left out"] if environment["variables_left_out"] else []
    yield _fold('<span class="who">Variables</span>', _pre([*lines, *left_out]))
    lines = [
        f"cd {shlex.quote(reproduce['cwd'])}",
        *(f"export {name}={shlex.quote(value)}" for name, value in reproduce["variables"].items()),
    ]
    yield _fold('<span class="who">Reproduce</span>', _pre([*lines, reproduce["command"]]))


def _values_table(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list_columns(rows)
    cells = [[f"<td>{_text(tell_value(name, row.get(name)))}</td>" for name in names] for row in rows]
    return _table([name.replace("_", " ") for name in names], [f"<tr>{''.join(row)}</tr>" for row in cells])


def _heading(title: str) -> str:
    return f"<h2>{_text(title)}</h2>"


def _badge(text: object, kind: str = "") -> str:
    return f'<span class="badge {kind}">{_text(text)}</span>'


def _list(items: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{_prose(item)}</li>" for item in items) + "</ul>"


def _pre(lines: Iterable[str]) -> str:
    return f"<pre>{_text(chr(10).join(lines))}</pre>"


def _table(head: Sequence[str], rows: Sequence[str]) -> str:
    cells = "".join(f'<th scope="col">{_text(name)}</th>' for name in head)
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _fold(title: str, body: str, *, name: str = "", is_open: bool = False) -> str:
    kind = f' class="{name}"' if name else ""
    return f'<details{kind}{" open" if is_open else ""}><summary>{title}</summary><div class="body">{body}</div></details>'
