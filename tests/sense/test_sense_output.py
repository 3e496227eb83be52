"""Bytes of a relay to readings, in whatever pieces they come."""

from __future__ import annotations

import json
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from unsloth_watch.sense.output import MOST_KEPT, MOST_READINGS, OutputReader

LINES = [
    json.loads(line)["line"].encode()
    for line in (Path(__file__).parents[1] / "data" / "output_lines.jsonl").read_text(encoding="utf-8").splitlines()
]
pytestmark = pytest.mark.quick


def feed(reader, *pieces):
    readings, total, sample = [], 0, None
    for piece in pieces:
        total += len(piece)
        sample = reader.feed(piece, total)
        readings.extend(sample.readings)
    return readings, sample


def names(readings):
    return [(reading.name, reading.value) for reading in readings]


@st.composite
def stream_and_cuts(draw):
    part = st.one_of(st.sampled_from(LINES), st.binary(max_size=20))
    parts = draw(st.lists(st.tuples(part, st.sampled_from([b"\n", b"\r", b"\r\n", b""])), max_size=12))
    stream = b"".join(text + end for text, end in parts)
    cuts = sorted(set(draw(st.lists(st.integers(0, len(stream)), max_size=8))) | {0, len(stream)})
    return stream, [stream[start:end] for start, end in pairwise(cuts)]


@given(stream_and_cuts())
@example((b"a\r\nb\r\n", [b"a\r", b"\nb", b"\r", b"\n"]))
@example(("█ 1/2".encode() + b"\n", [b"\xe2", "█ 1/2".encode()[1:], b"\n"]))
def test_any_chunking_gives_the_same_readings_and_lines(case):
    stream, pieces = case
    whole, parts = OutputReader(), OutputReader()
    at_once, sample = feed(whole, stream)
    piecemeal, last = feed(parts, *[piece for piece in pieces if piece] or [b""])
    assert piecemeal[-MOST_READINGS:] == at_once
    assert last.lines == sample.lines


@given(st.lists(st.binary(max_size=200), max_size=10), st.integers(0, 3))
def test_arbitrary_bytes_and_losses_never_fail(pieces, skipped):
    reader = OutputReader()
    for piece in pieces:
        reader.feed(piece, 0, skipped)
        reader.feed(b"", 0)


def test_a_megabyte_without_a_line_end_keeps_a_bounded_piece_of_it():
    reader = OutputReader()
    piece = b"12%|" * 16384
    tracemalloc.start()
    try:
        for _ in range(16):
            assert reader.feed(piece, 0).readings == ()
        kept, most = tracemalloc.get_traced_memory()
        assert kept < 4 * MOST_KEPT
        assert most < 4 * len(piece)
    finally:
        tracemalloc.stop()
    assert reader.feed(b"\nstep=5\n", 0).readings[-1].value == 5


def test_the_unfinished_bar_is_read_once_it_stands_still_and_not_again():
    reader = OutputReader()
    bar = b"\r 12%|#         | 7/60 [00:08<00:52,  1.01it/s]"
    assert feed(reader, bar)[0] == []
    assert names(feed(reader, b"")[0]) == [("n/total", 7)]
    assert feed(reader, b"")[0] == []
    assert names(feed(reader, b"\r 13%|#         | 8/60 [00:09<00:52,  1.01it/s]")[0]) == []
    assert names(feed(reader, b"\n")[0]) == [("n/total", 8)]


@pytest.mark.parametrize(
    "text",
    ["Continue? [y/N] ", "Password: ", "Enter your choice: ", "Are you sure?", ">>> ", "(yes/no) ", "[sudo] password for ann: ",
     "Press Enter to go on...", "wandb: Enter your choice: ", "Do you want to run the custom code? [y/N]"],
)  # fmt: skip
def test_a_question_that_stands_still_is_a_prompt(text):
    reader = OutputReader()
    assert feed(reader, b"hello\n" + text.encode())[1].prompt is None
    assert feed(reader, b"")[1].prompt == text.strip()
    assert feed(reader, b"y\n")[1].prompt is None
    assert feed(reader, b"")[1].prompt is None


@pytest.mark.parametrize("text", ["loading...", "\r 12%|#  | 7/60 [00:08<00:52,  1.01it/s]", "half a li", ""])
def test_a_line_that_asks_nothing_is_no_prompt(text):
    reader = OutputReader()
    feed(reader, text.encode())
    assert feed(reader, b"")[1].prompt is None


def test_the_rare_counter_survives_a_flood():
    reader = OutputReader()
    flood = b"".join(b"request %d ok\n" % number for number in range(2000))
    sample = reader.feed(b"step=7\n" + flood, 0)
    assert ("step", 7) in names(sample.readings)
    assert len(sample.readings) <= MOST_READINGS
    assert sample.lines == 2001


def test_the_line_that_a_loss_tore_is_not_read():
    reader = OutputReader()
    feed(reader, b"step=1\nstep=2")
    assert names(reader.feed(b"345\nstep=4\n", 100, skipped=50).readings) == [("step", 4)]


def test_line_ends_are_counted_once():
    reader = OutputReader()
    assert [feed(reader, piece)[1].lines for piece in (b"a\r\nb\r", b"\nc\r", b"d\n\n")] == [2, 3, 5]


def test_what_the_relay_says_is_passed_on():
    sample = OutputReader().feed(b"x", 41, is_blocked=True)
    assert (sample.total_bytes, sample.is_blocked, sample.lines) == (41, True, 0)


def test_a_line_that_never_ends_is_read_at_its_end():
    reader = OutputReader()
    seen = [names(reader.feed(b"%d " % number, 0).readings) for number in range(1000, 3000)]
    assert all(any(name.startswith("#") for name, _ in readings) for readings in seen[100:])
    assert seen[-1][0][1] > seen[-2][0][1]


def test_a_line_that_never_ends_is_read_at_its_end_after_a_loss_as_well():
    reader = OutputReader()
    reader.feed(b"1 2", 0)
    reader.feed(b"999 ", 0, skipped=50)
    seen = [names(reader.feed(b"%d " % number, 0).readings) for number in range(1000, 3000)]
    assert seen[-1][0][1] > seen[-2][0][1] > 2000


def test_dots_that_never_end_say_nothing():
    reader = OutputReader()
    seen = [reader.feed(b".", 0).readings for _ in range(3000)]
    assert not any(seen)


@pytest.mark.parametrize("back", [b"\x1b[1G", b"\x1b[3;1H", b"\x08\x08\x08\x08", b"\x1b[2A", b"\x1b[u", b"\x1b8"])
def test_a_bar_that_goes_back_without_a_carriage_return_is_read_at_every_step(back):
    reader = OutputReader()
    seen = []
    for number in range(1, 400):
        seen += names(reader.feed(back + b"\x1b[32mstep %d of 999\x1b[0m\x1b[0K" % number, 0).readings)
    assert [value for _, value in seen] == list(range(1, 399))
