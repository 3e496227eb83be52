"""What a line of output says, for real lines and for any."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from unsloth_watch.model.sample import INDEX
from unsloth_watch.sense.line import MOST_READINGS, read_line, strip_escapes

DATA = Path(__file__).parents[1] / "data" / "output_lines.jsonl"
LINES = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
pytestmark = pytest.mark.quick


def shape(text):
    (first, *_) = read_line(strip_escapes(text))
    return first.shape


def counters(text):
    return [
        (reading.name, reading.value, reading.total)
        for reading in read_line(strip_escapes(text))
        if reading.name.strip(INDEX + "01")
    ]


@pytest.mark.parametrize("entry", LINES, ids=[f"{entry['source']}: {entry['line'][:40]}" for entry in LINES])
def test_a_real_line_gives_its_counters_and_nothing_else(entry):
    assert counters(entry["line"]) == [tuple(reading) for reading in entry["readings"]]
    assert re.fullmatch(r"[0-9a-f]{8}", shape(entry["line"]))


SAME = [
    ("  0%|          | 0/147 [00:00<?, ?it/s]", "100%|██████████| 147/147 [1:00:00<00:00, 656.69it/s]"),
    ("12%|█▏ | 7/60 [00:08<00:52,  1.01it/s]", "88%|████████▊ | 53/60 [02:07<00:04,  1.49s/it, loss=0.3]"),
    ("{'loss': 1.2345, 'epoch': 0.1}", "{'loss': 12.0, 'epoch': 1e-05}"),
    ("{'loss': nan, 'epoch': 0.1}", "{'loss': 1.5, 'epoch': 3}"),
    ("2026-11-24 07:41:07,123 INFO step 9 took 998ms", "2026-12-01 17:00:00,001 INFO step 1,000 took 1.2s"),
    ("Saving to out/checkpoint-5", "Saving to out/checkpoint-10000"),
    ("got 3f2504e0-4f89-11d3-9a0c-0305e82c3301 at 0x7f00", "got aaaaaaaa-bbbb-cccc-dddd-eeeeeeee0000 at 0x1"),
    ("downloaded 999.1kB of 12MB", "downloaded 1.2MB of 3.4GB"),
    (" iteration      120/    1000 | loss: 1.0", " iteration     1000/    1000 | loss: 10.25"),
    ("⠋ resolving 1", "⠙ resolving 22"),
    ("| working", "/ working"),
    ("━━━╸   12.3/45.6 MB 10.2 MB/s eta 0:00:04", "━━━━━━━ 45.6/45.6 MB 9.1 MB/s eta 0:00:00"),
    ("W1124 07:41:07.123000 12345 torch/distributed/run.py:792] x", "W1201 00:00:07.000001 7 torch/distributed/run.py:792] x"),
]


@pytest.mark.parametrize(("one", "other"), SAME, ids=[one[:30] for one, _ in SAME])
def test_the_same_statement_has_the_same_shape(one, other):
    assert shape(one) == shape(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Loading weights: 12%|█ | 1/8 [00:01<00:07, 1it/s]", "Tokenizing: 12%|█ | 1/8 [00:01<00:07, 1it/s]"),
        ("step 1 done", "epoch 1 done"),
        ("loss: 1.0", "lr: 1.0"),
    ],
)
def test_another_statement_has_another_shape(one, other):
    assert shape(one) != shape(other)


NUMBER = st.one_of(
    st.integers(0, 10**9).map(str),
    st.integers(1000, 10**9).map(lambda number: f"{number:,}"),
    st.floats(0, 1e6, allow_nan=False).map(lambda number: f"{number:.3f}"),
    st.floats(1e-9, 1e-3).map(lambda number: f"{number:.2e}"),
)
STATEMENTS = [
    "step {} of {}",
    "loss: {} lr: {}",
    "{{'loss': {}, 'grad_norm': {}}}",
    "processed {} samples ({}%)",
    "[{}/{}] compiling",
    "10%|# | {}/{} [00:01<00:07, 1it/s]",
    "speed {}it/s at {}",
    "step={} tokens={}",
]


@given(st.sampled_from(STATEMENTS), NUMBER, NUMBER, NUMBER, NUMBER)
def test_the_shape_does_not_change_with_the_numbers(statement, one, two, three, four):
    assert shape(statement.format(one, two)) == shape(statement.format(three, four))


@given(st.integers(0, 10**12), st.integers(1, 10**12))
def test_a_bar_gives_what_it_was_made_of(count, total):
    assert counters(f"Map: 3%|▎  | {count}/{total} [00:01<00:07, 1it/s]") == [("n/total", float(count), float(total))]


@pytest.mark.parametrize(
    ("text", "count", "total"),
    [("1.5GiB/3GiB", 1.5 * 2**30, 3.0 * 2**30), ("1.5k/2M", 1500, 2e6), ("512/1024 KB", 512e3, 1024e3), ("7B of 12GB", 7, 12e9)],
)
def test_sizes_are_expanded(text, count, total):
    assert counters(f"fetched {text}") == [("n/total", count, total)]


@given(st.sampled_from(["step", "global_step", "loss", "'loss'", '"tokens"']), st.sampled_from(["=", ": "]), NUMBER)
def test_a_named_number_is_read_under_its_name(name, sign, number):
    assert counters(f"x {name}{sign}{number}, y") == [(name.strip("'\""), float(number.replace(",", "")), None)]


@given(st.text(max_size=600))
@example("1" * 600)
@example("1," * 300)
@example("\x1b[" * 300)
@example("9" * 400 + "e9999")
@example("5/1e9999")
@example("1e9999/1e9999 step=1e9999 5%")
def test_any_text_is_read_without_a_fault_and_gives_finite_numbers(text):
    readings = read_line(strip_escapes(text))
    assert len(readings) <= MOST_READINGS
    assert len({reading.shape for reading in readings}) == (1 if readings else 0)
    assert all(abs(reading.value) < float("inf") for reading in readings)
    assert all(reading.total is None or abs(reading.total) < float("inf") for reading in readings)


@given(st.text(st.characters(codec="utf-8"), max_size=80))
def test_escapes_around_a_line_change_nothing(text):
    assume("\x1b" not in text)
    assert read_line(strip_escapes(f"\x1b[32m{text}\x1b[0m\x1b[K\x1b]0;title\x07")) == read_line(strip_escapes(text))


def test_a_blank_line_has_no_readings():
    assert read_line("") == read_line("  \t ") == ()
