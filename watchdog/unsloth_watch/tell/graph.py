"""The waits-for graph of a report: as text for Markdown, and as the boxes and arrows that ``drawing`` makes a picture of.

Threads in the same wait at the same place are one box (``ranks 0–6``); idle pools and monitors are left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from unsloth_watch.tell.groups import format_ranges

MAX_BOXES = 30
"""Boxes that are shown: more cannot be read on a page, and the chain of blame comes first."""
_MAX_GUESSES = 3
# Arrows of one box to those who only may end its wait; the others are counted.


class Box(msgspec.Struct, frozen=True):
    """Threads that wait alike.

    Attributes:
        name: Who: ``PID 12``, ``thread logger of PID 12``, ``ranks 0–6``.
        words: What for.
        frame: Where in the user's code; empty if unknown.
        step: First place on the chain of blame; None for those beside it.
        is_circle: Whether it waits in a circle.
        is_end: Whether the waiting ends here.
    """

    name: str
    words: str
    frame: str = ""
    step: int | None = None
    is_circle: bool = False
    is_end: bool = False


class Arrow(msgspec.Struct, frozen=True):
    """One box waits for another: their numbers, why, and whether the evidence names that one. ``end`` is None for nobody."""

    start: int
    end: int | None
    why: str
    is_sure: bool


class Picture(msgspec.Struct, frozen=True):
    """What is drawn: boxes in the order of the chain, arrows, and how many idle threads and boxes were left out."""

    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    idle: int
    left_out: int


def make_picture(waits: Sequence[Mapping[str, Any]]) -> Picture:
    """Return the picture of a report's waits."""
    told = [wait for wait in waits if wait.get("aim") and not wait["is_resting"]]
    groups = _merge(told)
    groups.sort(key=lambda group: min(wait["step"] or len(waits) + 1 for wait in group))
    shown = groups[:MAX_BOXES]
    place = {(wait["pid"], wait["tid"]): number for number, group in enumerate(shown) for wait in group}
    last = max((wait["step"] for wait in told if wait["step"]), default=0)
    return Picture(
        boxes=tuple(_make_box(group, last) for group in shown),
        arrows=tuple(arrow for number, group in enumerate(shown) for arrow in _make_arrows(number, group, place)),
        idle=len(waits) - len(told),
        left_out=len(groups) - len(shown),
    )


def _merge(waits: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Return threads with the same wait at the same place together, unless one of them waits for another of them."""
    alike: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for wait in waits:
        name = "" if wait["is_main"] else wait["thread"]
        identity = (wait["aim"], wait["words"], wait["frame"]) if wait["frame"] else (wait["pid"], wait["tid"], name)
        alike.setdefault(identity, []).append(wait)
    groups: list[list[Mapping[str, Any]]] = []
    for group in alike.values():
        members = {(wait["pid"], wait["tid"]) for wait in group}
        has_inner = any((waker["pid"], waker["tid"]) in members for wait in group for waker in wait["wakers"])
        groups += [[wait] for wait in group] if has_inner else [group]
    return groups


def _make_box(group: Sequence[Mapping[str, Any]], last: int) -> Box:
    steps = [wait["step"] for wait in group if wait["step"]]
    return Box(
        name=_name(group),
        words=group[0]["words"] or group[0]["for"],
        frame=group[0]["frame"] or "",
        step=min(steps, default=None),
        is_circle=any(wait["is_circle"] for wait in group),
        is_end=last in steps,
    )


def _name(group: Sequence[Mapping[str, Any]]) -> str:
    first = group[0]
    ranks = [wait["rank"] for wait in group if wait["rank"] is not None]
    if len(ranks) == len(group) and first["is_main"]:
        return f"{'ranks' if len(group) > 1 else 'rank'} {format_ranges(ranks)}" + (
            f" (PID {first['pid']})" if len(group) == 1 else ""
        )
    pids = format_ranges({wait["pid"] for wait in group})
    if first["is_main"]:
        return f"PID {pids}"
    return f"thread {first['thread']} of PID {pids}" if len(group) == 1 else f"{len(group)} threads of PID {pids}"


def _make_arrows(number: int, group: Sequence[Mapping[str, Any]], place: Mapping[tuple[int, int], int]) -> Iterator[Arrow]:
    seen: dict[int | None, Mapping[str, Any]] = {}
    for wait in group:
        for waker in wait["wakers"]:
            end = place.get((waker["pid"], waker["tid"])) if waker["pid"] is not None else None
            if waker["pid"] is None or end is not None:
                seen.setdefault(end, waker)
    sure = [(end, waker) for end, waker in seen.items() if waker["is_sure"] or end is None]
    guesses = [(end, waker) for end, waker in seen.items() if not waker["is_sure"] and end is not None]
    guesses.sort(key=lambda pair: pair[0] or 0)
    for end, waker in [*sure, *guesses[:_MAX_GUESSES]]:
        why = ": ".join(part for part in (waker["thing"], waker["why"]) if part)
        more = (
            f" (and {len(guesses) - _MAX_GUESSES} more)" if guesses[_MAX_GUESSES:] and waker is guesses[_MAX_GUESSES - 1][1] else ""
        )
        yield Arrow(number, end, why + more, waker["is_sure"])


def tell_picture(picture: Picture) -> str:
    """Return the graph as an indented tree: the chain of blame first, each box once."""
    lines: list[str] = []
    told: set[int] = set()
    for number in range(len(picture.boxes)):
        if number not in told:
            _tell_box(number, "", picture, told, lines)
    if picture.idle:
        lines.append(f"({picture.idle} idle or waiting by the clock)")
    if picture.left_out:
        lines.append(f"({picture.left_out} more in report.json)")
    return "\n".join(lines)


def _tell_box(number: int, indent: str, picture: Picture, told: set[int], lines: list[str]) -> None:
    box = picture.boxes[number]
    where = f" in {box.frame}" if box.frame else ""
    mark = "  ← in a circle" if box.is_circle else "  ← here the waiting ends" if box.is_end else ""
    lines.append(f"{box.name} {box.words}{where}{mark}")
    told.add(number)
    for arrow in (arrow for arrow in picture.arrows if arrow.start == number):
        lead = f"{indent}└─{'▶' if arrow.is_sure else '?'} {arrow.why}: "
        if arrow.end is None:
            lines.append(lead + "nobody")
        elif arrow.end in told:
            lines.append(f"{lead}{picture.boxes[arrow.end].name} (above)")
        else:
            lines.append(lead.rstrip())
            at = len(lines)
            _tell_box(arrow.end, indent + "   ", picture, told, lines)
            lines[at] = f"{indent}   {lines[at]}"
