"""The waits-for graph as inline SVG: boxes in layers by their distance from the main thread, arrows to who is waited for."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence

from unsloth_watch.tell.graph import Arrow, Box, Picture

WIDTH = 1000
_BOX_WIDTH, _BOX_HEIGHT = 300, 58
_FOOT = 264
"""Where arrows leave a box below, from its left edge: right of most words that stand there."""
_ROW = 118
_PER_ROW = 3
_MARGIN = 20
_LETTERS, _MONO_LETTERS = 44, 35
"""Letters of 11 px that fit into a box, of the text's face and of the code's."""


def render_picture(picture: Picture) -> str:
    """Return the ``<svg>`` of a graph; empty where there is nothing to draw."""
    if not picture.boxes:
        return ""
    places = _place(picture)
    height = max(y for _, y in places) + _BOX_HEIGHT + 3 * _MARGIN
    words = f"who waits for whom: {len(picture.boxes)} waits and {len(picture.arrows)} arrows, the same as in the table"
    parts = [
        f'<svg class="graph" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{html.escape(words, quote=True)}">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L8 4L0 8z"/></marker></defs>',
        *(part for number, arrow in enumerate(picture.arrows) for part in _draw_arrow(arrow, places, _find_slot(picture, number))),
        *(part for box, place in zip(picture.boxes, places, strict=True) for part in _draw_box(box, place)),
        "</svg>",
    ]
    return "".join(parts)


def _place(picture: Picture) -> list[tuple[int, int]]:
    """Return the upper left corner of every box."""
    layers = _find_layers(picture)
    places: dict[int, tuple[int, int]] = {}
    y = _MARGIN
    for layer in range(max(layers) + 1):
        members = [number for number, one in enumerate(layers) if one == layer]
        for start in range(0, len(members), _PER_ROW):
            row = members[start : start + _PER_ROW]
            gap = (WIDTH - len(row) * _BOX_WIDTH) // (len(row) + 1)
            for column, number in enumerate(row):
                places[number] = (gap + column * (_BOX_WIDTH + gap), y)
            y += _ROW
    return [places[number] for number in range(len(layers))]


def _find_layers(picture: Picture) -> list[int]:
    """Return each box's distance from the first one; those that it does not lead to stand where they would have to."""
    ends: dict[int, list[int]] = {}
    for arrow in picture.arrows:
        if arrow.end is not None:
            ends.setdefault(arrow.start, []).append(arrow.end)
    layers: dict[int, int] = {}
    for first in range(len(picture.boxes)):
        queue = [(first, 0)]
        while queue:
            number, layer = queue.pop(0)
            if number not in layers:
                layers[number] = layer
                queue += [(end, layer + 1) for end in ends.get(number, [])]
    return [layers[number] for number in range(len(picture.boxes))]


def _draw_box(box: Box, place: tuple[int, int]) -> Iterator[str]:
    x, y = place
    kind = "circle" if box.is_circle else "end" if box.is_end else "chain" if box.step else "beside"
    yield f'<g class="{kind}"><title>{_text(f"{box.name} {box.words} {box.frame}")}</title>'
    yield f'<rect x="{x}" y="{y}" width="{_BOX_WIDTH}" height="{_BOX_HEIGHT}" rx="7"/>'
    for number, (words, name) in enumerate(((box.name, "who"), (box.words, ""), (_shorten_frame(box.frame), "mono"))):
        letters = _MONO_LETTERS if name == "mono" else _LETTERS
        yield f'<text class="{name}" x="{x + 12}" y="{y + 18 + 16 * number}">{_text(_cut(words, letters))}</text>'
    yield "</g>"


def _find_slot(picture: Picture, number: int) -> int | None:
    """Return the line below its box where an arrow's words stand; None where an earlier one of that box says the same."""
    arrow = picture.arrows[number]
    said = dict.fromkeys(_say_why(one) for one in picture.arrows[:number] if one.start == arrow.start)
    return None if _say_why(arrow) in said else len(said)


def _say_why(arrow: Arrow) -> str:
    return f"nobody: {arrow.why}" if arrow.end is None else arrow.why


def _draw_arrow(arrow: Arrow, places: Sequence[tuple[int, int]], slot: int | None) -> Iterator[str]:
    x, y = places[arrow.start]
    left, top = x + _FOOT, y + _BOX_HEIGHT
    kind = "sure" if arrow.is_sure else "guess"
    if arrow.end is None:
        yield f'<path class="{kind}" d="M{left} {top}V{top + 22}"/>'
    else:
        end_x, end_y = places[arrow.end]
        right = end_x + (_BOX_WIDTH // 2 if end_y > y else _FOOT)
        if end_y > y:
            middle = (top + end_y) // 2
            path = f"M{left} {top}C{left} {middle} {right} {middle} {right} {end_y - 2}"
        elif end_y == y and arrow.start != arrow.end:  # in the same row: below the boxes
            path = f"M{left} {top}C{left} {top + 36} {right} {top + 36} {right} {top + 2}"
        else:  # back to an earlier box, or to itself: around the right side
            side = min(WIDTH - 6, max(x, end_x) + _BOX_WIDTH + 40)
            path = f"M{x + _BOX_WIDTH} {y + 40}C{side} {y + 40} {side} {end_y + 18} {end_x + _BOX_WIDTH + 2} {end_y + 18}"
        yield f'<path class="{kind}" d="{path}" marker-end="url(#tip)"><title>{_text(arrow.why)}</title></path>'
    if slot is not None:
        beside = min((place[0] for place in places if place[1] == y and place[0] > x), default=WIDTH)
        yield _label(x, top + 14 + 13 * slot, _say_why(arrow), beside - x)


def _label(x: int, y: int, words: str, width: int) -> str:
    """Return words from a box's left edge on; lines of the boxes beside it have places of their own."""
    return f'<text class="label" x="{x}" y="{y}">{_text(_cut(words, width // 6))}</text>'


def _shorten_frame(frame: str) -> str:
    """Return ``save (train.py:27)`` for a frame with a whole path."""
    function, _, place = frame.rpartition(" (")
    return f"{function} ({place.rpartition('/')[2]}" if function else frame


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "…"


def _text(value: str) -> str:
    return html.escape(value.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd"), quote=True)
