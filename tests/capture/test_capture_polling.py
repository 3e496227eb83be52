"""What a polling program asks for: from its source, and from what it opens for a moment."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import pytest

from unsloth_watch.capture.askedpaths import name_variable
from unsloth_watch.capture.capture import capture
from unsloth_watch.capture.glimpses import watch_descriptors
from unsloth_watch.capture.loops import find_loop
from unsloth_watch.model.evidence import SourceLoop

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
from pathlib import Path

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


@pytest.mark.parametrize("pause", ["time.sleep(0.02)", "select.select([], [], [], 0.02)"])  # the second is Python 3.10's sleep
def test_a_file_that_is_opened_for_a_moment_each_time_is_seen(start, tmp_path, pause):
    path = tmp_path / "server.log"
    path.write_text("starting")
    target = start(OPENING.replace("time.sleep(0.02)", pause).replace("import sys", "import select, sys"), path).rest()
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


ASKING = """
import os, sys, time
from pathlib import Path

SECRET = "/of/another/variable"

def wait(path, secret):
    while not {question}:
        time.sleep(0.05)

where = Path(sys.argv[1]) if sys.argv[2] == "pathlib" else sys.argv[1]
print("ready", flush=True)
wait(where, SECRET)
"""


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("path.is_dir()", "pathlib"),
        ("os.path.isdir(path)", "str"),
        ("os.path.exists(path)", "pathlib"),
        ("os.access(path, os.W_OK)", "str"),
    ],
)
@pytest.mark.parametrize("name", ["checkpoints", "deep/" * 40 + "checkpoints"])
def test_a_path_that_is_only_asked_about_is_read_from_the_one_variable_that_the_loop_names(start, tmp_path, question, kind, name):
    path = tmp_path / "asking.py"
    path.write_text(ASKING.format(question=question))
    program = "import runpy, sys\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    target = start(program, path, tmp_path / name, kind).rest()
    evidence = capture([target.ref], target.ref, at=0.0, clock=time.monotonic)
    (process,) = evidence.processes
    assert process.missing == ()
    assert process.main_thread is not None
    assert [loop.target for loop in process.main_thread.loops] == [str(tmp_path / name)]
    assert "of/another/variable" not in repr(evidence)


@pytest.mark.parametrize("version", ["3.10", "3.12", "3.13"])
def test_a_path_is_read_from_every_python_that_is_supported(start, tmp_path, version):
    found = list(Path.home().glob(f".pyenv/versions/{version}.*/bin/python")) or [shutil.which(f"python{version}")]
    if found[-1] is None:
        pytest.skip(f"no Python {version} here; install it with pyenv")
    path = tmp_path / "asking.py"
    path.write_text(ASKING.format(question="path.is_dir()"))
    launch = "import os, sys\nos.execv(sys.argv[1], sys.argv[1:])"
    target = start(launch, found[-1], path, "no/such/directory", "pathlib")
    target.rest()
    (process,) = capture([target.ref], target.ref, at=0.0, clock=time.monotonic).processes
    assert process.main_thread is not None
    assert [loop.target for loop in process.main_thread.loops] == [f"{process.cwd}/no/such/directory"]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("header", "call", "variable"),
    [
        ("while not marker.exists()", "place.is_dir()", ("marker", "exists")),
        ("while not os.path.isdir(place)", "", ("place", "isdir")),
        ("while True", "os.stat(place, follow_symlinks=False)", ("place", "stat")),
        ("while not self.path.exists()", "", None),
        ("while not path.with_suffix('.done').exists()", "", None),
        ("while not os.path.exists(os.path.join(base, name))", "", None),
        ("while not (base / name).exists()", "", None),
        ("while not lock.acquire()", "time.sleep(pause)", None),
        ("while True", "os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)", ("path", "open")),
        ("while True", "open(path, 'x')", ("path", "open")),
        ("while True", "open(path, 'a')", None),
        ("while True", "_LOGGER.debug('Attempting to acquire lock %s on %s', lock_id, lock_filename)", ("lock_filename", "")),
        ("while True", "log(self.lock_file, 'lock')", None),
    ],
)
def test_the_variable_that_a_loop_asks_about_is_named_only_where_it_is_the_whole_path(header, call, variable):
    assert name_variable(SourceLoop(0, header, calls=(call,))) == variable
