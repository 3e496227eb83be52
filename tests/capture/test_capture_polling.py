"""What a polling program asks for: from its source, and from what it opens for a moment."""

from __future__ import annotations

import sys
import time

import pytest

from unsloth_watch.capture.capture import capture
from unsloth_watch.capture.glimpses import watch_descriptors
from unsloth_watch.capture.loops import find_loop

OPENING = """
import sys, time
print("ready", flush=True)
def wait_for_word(path):
    while "done" not in open(path).read():
        time.sleep(0.02)
wait_for_word(sys.argv[1])
"""
SLEEPING = 'import time\nprint("ready", flush=True)\ntime.sleep(3600)\n'
SOURCE = """
import time

class Saver:
    def wait(self, path, other):
        for attempt in range(3):
            print(attempt)
        while not (path.exists() and other.ready()):
            if other.failed():
                raise OSError(
                    "gone"
                )
            time.sleep(0.5)
        return path

def after(path):
    return path.read_text()
"""


def line_of(text: str) -> int:
    return next(number for number, line in enumerate(SOURCE.split("\n"), 1) if text in line)


def test_a_file_that_is_opened_for_a_moment_each_time_is_seen(start, tmp_path):
    path = tmp_path / "server.log"
    path.write_text("starting")
    target = start(OPENING, path).rest()
    for _ in range(20):  # one watch sees it in nine of ten cases; a busy machine may let us miss some wake-ups
        if watch_descriptors(target.pid, 1.0) == (str(path),):
            return
    pytest.fail("20 watches of 1 s did not see a file that is opened 50 times a second")


def test_a_process_that_sleeps_on_is_not_watched_for_longer_than_asked(start):
    target = start(SLEEPING).rest()
    assert watch_descriptors(target.pid, 0.05) == ()


def test_a_process_that_has_ended_shows_nothing(start):
    target = start(SLEEPING).rest()
    target.process.kill()
    target.process.wait()
    assert watch_descriptors(target.pid, 0.05) == ()


def test_a_captured_poller_has_its_loop_and_its_path(start, tmp_path):
    script = tmp_path / "poll.py"
    script.write_text(OPENING)
    path = tmp_path / "server.log"
    path.write_text("starting")
    target = start("", argv=[sys.executable, "-u", str(script), str(path)])
    target.rest()
    evidence = capture([target.ref], target.ref, at=0.0, clock=time.monotonic)
    loop = evidence.processes[0].threads[0].loops[0]
    assert loop.header == "while 'done' not in open(path).read()"
    assert "time.sleep(0.02)" in loop.calls


@pytest.mark.quick
def test_the_innermost_loop_around_a_line_is_found_with_its_calls():
    loop = find_loop(SOURCE.split("\n"), line_of("time.sleep(0.5)"), 2)
    assert loop is not None
    assert loop.header == "while not (path.exists() and other.ready())"
    assert loop.line == "time.sleep(0.5)"
    assert loop.calls[:2] == ("path.exists()", "other.ready()")
    assert loop.depth == 2


@pytest.mark.quick
@pytest.mark.parametrize("text", ["return path\n", "return path.read_text()", "import time", "class Saver"])
def test_a_line_outside_of_every_loop_has_none(text: str):
    assert find_loop(SOURCE.split("\n"), line_of(text.strip())) is None


@pytest.mark.quick
@pytest.mark.parametrize("line", [0, -1, 10_000])
def test_a_line_that_is_not_there_has_no_loop(line: int):
    assert find_loop(SOURCE.split("\n"), line) is None


@pytest.mark.quick
def test_a_text_that_is_no_python_has_no_loop():
    assert find_loop(["while (", "  x"], 2) is None
