"""Plots of the signals as inline SVG: one small picture a signal, all with the same axis of seconds before the verdict."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from unsloth_watch.tell.moment import format_duration
from unsloth_watch.tell.quantity import format_quantity

WIDTH, HEIGHT = 340, 110
_LEFT, _RIGHT, _TOP, _BOTTOM = 4, 4, 16, 18


def render_plot(series: Mapping[str, Any], signals: Mapping[str, Any]) -> str:
    """Return one ``<figure>``.

    Args:
        series: One of the series.
        signals: The report's ``signals``: the axis, its marks, and where the quiet time begins.
    """
    times, marks = signals["times"], signals["marks"]
    known = [value for value in series["values"] if value is not None]
    top = 100.0 if series["unit"] == "%" else max(known, default=0.0)
    scale = _Scale(times, top)
    last = format_quantity(known[-1], series["unit"]) if known else "unknown"
    words = f"{series['title']}: at most {format_quantity(max(known, default=0.0), series['unit'])}, {last} at the end"
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(words, quote=True)}">',
        _draw_quiet(scale, signals["quiet_from"]),
        *(
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            for y in (scale.y(0), scale.y(top or 1))
        ),
        *(_draw_run(scale, run) for run in _split_runs(times, series["values"])),
        *(_draw_mark(scale, mark) for mark in marks),
        *_draw_axis(scale),
        f'<text x="{_LEFT}" y="{_TOP - 5}">{html.escape(format_quantity(top, series["unit"]))}</text>',
        "</svg>",
    ]
    caption = f"<figcaption>{html.escape(series['title'])}<span>{html.escape(last)} at the end</span></figcaption>"
    return f"<figure>{caption}{''.join(parts)}</figure>"


class _Scale:
    """Maps seconds and values to the picture."""

    def __init__(self, times: Sequence[float], top: float) -> None:
        self.start = min(times[0], -1.0) if times else -1.0
        self.end = max(times[-1], 0.0) if times else 0.0
        self.top = top or 1.0

    def x(self, time: float) -> float:
        share = (time - self.start) / (self.end - self.start)
        return _LEFT + min(max(share, 0.0), 1.0) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - value / self.top * (HEIGHT - _TOP - _BOTTOM)


def _split_runs(times: Sequence[float], values: Sequence[float | None]) -> list[list[tuple[float, float]]]:
    """Return the stretches without a gap: what is unknown is drawn as nothing, never as zero."""
    runs: list[list[tuple[float, float]]] = [[]]
    for time, value in zip(times, values, strict=True):
        if value is not None:
            runs[-1].append((time, value))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _draw_run(scale: _Scale, run: Sequence[tuple[float, float]]) -> str:
    points = [f"{scale.x(time):.1f} {scale.y(value):.1f}" for time, value in run]
    if len(points) == 1:
        points.append(f"{scale.x(run[0][0]) + 1:.1f} {scale.y(run[0][1]):.1f}")
    path = "M" + "L".join(points)
    first, last, base = points[0].split()[0], points[-1].split()[0], f"{scale.y(0):.1f}"
    return f'<path class="area" d="{path}L{last} {base}L{first} {base}Z"/><path class="curve" d="{path}"/>'


def _draw_quiet(scale: _Scale, start: float) -> str:
    left, right = scale.x(start), scale.x(0.0)
    height = HEIGHT - _TOP - _BOTTOM
    return f'<rect class="quiet" x="{left:.1f}" y="{_TOP}" width="{max(right - left, 0):.1f}" height="{height}"/>'


def _draw_mark(scale: _Scale, mark: Mapping[str, Any]) -> str:
    if mark["at"] < scale.start:
        return ""
    x = f"{scale.x(mark['at']):.1f}"
    title = html.escape(f"{mark['label']}, {format_duration(-mark['at'])} before the verdict")
    name = html.escape(mark["id"], quote=True)
    return f'<line class="mark {name}" x1="{x}" x2="{x}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"><title>{title}</title></line>'


def _draw_axis(scale: _Scale) -> list[str]:
    """Label both ends and the middle: enough to read a time, never so much that labels meet."""
    y = HEIGHT - 4
    middle = scale.start / 2
    return [
        f'<text x="{_LEFT}" y="{y}">−{format_duration(-scale.start)}</text>',
        f'<text x="{scale.x(middle):.1f}" y="{y}" text-anchor="middle">−{format_duration(-middle)}</text>',
        f'<text x="{WIDTH - _RIGHT}" y="{y}" text-anchor="end">verdict</text>',
    ]
