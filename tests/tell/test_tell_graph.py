"""The graph of a report, drawn and told, from captures of the zoo's programs that really hung."""

from __future__ import annotations

import itertools
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest

from diagnose.recordedcases import case_of
from unsloth_watch.model.evidence import Evidence, ProcessEvidence
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.tell.drawing import render_picture
from unsloth_watch.tell.graph import MAX_BOXES, make_picture, tell_picture
from unsloth_watch.tell.waits import list_waits

pytestmark = pytest.mark.quick


def waits_of(name: str) -> list[dict[str, Any]]:
    return list_waits(case_of(f"zoo-hang_{name}").evidence)


def test_the_circle_is_marked_and_closed() -> None:
    text = tell_picture(make_picture(waits_of("abba")))
    assert text.count("← in a circle") == 2
    assert text.rstrip().endswith("(above)")
    assert "holds disk in log_metrics" in text


def test_the_end_of_the_waiting_is_marked_and_nobody_named() -> None:
    text = tell_picture(make_picture(waits_of("grandchild")))
    assert "convert_layer" in text
    text = tell_picture(make_picture(waits_of("event")))
    assert "← here the waiting ends" in text
    assert text.endswith("nobody")


def test_workers_in_one_wait_are_one_box_and_idle_threads_are_counted() -> None:
    picture = make_picture(waits_of("datasets_map_fork"))
    workers = [box for box in picture.boxes if "count_tokens" in box.frame]
    assert len(workers) == 1
    assert "–" in workers[0].name
    assert picture.idle > 0


def test_the_steps_of_the_chain_are_numbered_in_the_report() -> None:
    steps = {wait["step"]: wait["words"] for wait in waits_of("gloo_rank_stuck") if wait["step"]}
    assert sorted(steps) == [1, 2, 3]
    assert "collective" in steps[2]


@pytest.mark.parametrize(
    "name", ["abba", "three_locks", "self_lock", "gloo_rank_stuck", "pipe_stderr", "pool_worker_killed", "event"]
)
def test_the_drawing_is_well_formed_and_has_every_box(name: str) -> None:
    picture = make_picture(waits_of(name))
    root = ElementTree.fromstring(render_picture(picture))
    assert len(root.findall("g")) == len(picture.boxes)
    assert len(root.findall("path")) == len(picture.arrows)
    height = float(root.attrib["viewBox"].split()[3])
    assert all(float(one.attrib["y"]) + 58 <= height for one in root.iter("rect"))


@pytest.mark.parametrize("name", ["abba", "three_locks", "gloo_rank_stuck", "pipe_stderr", "pool_worker_killed"])
def test_no_words_beside_an_arrow_stand_on_others(name: str) -> None:
    root = ElementTree.fromstring(render_picture(make_picture(waits_of(name))))
    labels = [one for one in root.findall("text") if one.attrib["class"] == "label"]
    spans = [(int(one.attrib["y"]), int(one.attrib["x"]), int(one.attrib["x"]) + 6 * len(one.text or "")) for one in labels]
    assert labels
    for (y, left, _), (other_y, other_left, other_right) in itertools.permutations(spans, 2):
        assert abs(y - other_y) >= 11 or not other_left <= left < other_right


def test_foreign_words_cannot_leave_the_drawing() -> None:
    waits = waits_of("event")
    waits[0] = {**waits[0], "words": "</svg><script>alert(1)</script>", "frame": 'x"onload=1 (a<b.py:1)'}
    drawing = render_picture(make_picture(waits))
    assert "<script" not in drawing
    ElementTree.fromstring(drawing)


def crowd(number: int) -> Evidence:
    """Return a job of many processes, each of which waits at a place of its own."""
    (one,) = case_of("zoo-hang_event").evidence.processes
    thread = one.threads[0]

    def make(index: int) -> ProcessEvidence:
        frames = tuple(msgspec.structs.replace(frame, line=index) if "event.py" in frame.file else frame for frame in thread.frames)
        own = msgspec.structs.replace(thread, tid=1000 + index, frames=frames)
        return msgspec.structs.replace(one, ref=ProcessRef(1000 + index, 1), ppid=1, threads=(own,))

    processes = tuple(make(index) for index in range(1, number + 1))
    return Evidence(at=0.0, seconds=0.0, processes=processes, root=processes[0].ref)


def test_a_crowd_is_cut_and_the_rest_counted() -> None:
    waits = list_waits(crowd(MAX_BOXES + 12))
    for wait in waits:
        wait["wakers"] = wait["wakers"][:1]
    picture = make_picture(waits)
    assert (len(picture.boxes), picture.left_out) == (MAX_BOXES, 12)
    assert "(12 more in report.json)" in tell_picture(picture)
    ElementTree.fromstring(render_picture(picture))
