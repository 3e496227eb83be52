"""Pulses: what a thread's own text must say before the proof leaves it out."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from unsloth_watch.capture.capture import survey
from unsloth_watch.capture.process import read_start
from unsloth_watch.capture.pulses import is_pulse, read_tree
from unsloth_watch.model.process import ProcessRef
from waiting import until

HEAD = "import itertools\nimport json\nimport os\nimport sys\nimport threading\nimport time\n"


def judge(body: str, head: str = HEAD) -> bool:
    """Whether the line with the sleep in a thread's function is one of a pulse."""
    text = head + "def report(path, queue, event):\n" + textwrap.indent(textwrap.dedent(body).strip("\n"), "    ") + "\n"
    line = next(number for number, row in enumerate(text.split("\n"), start=1) if "sleep(" in row)
    return is_pulse(ast.parse(text), line)


@pytest.mark.quick
@pytest.mark.parametrize(
    "body",
    [
        "while True:\n    time.sleep(1)",
        "start = time.monotonic()\nwhile True:\n    time.sleep(1)\n    print(f'alive {time.monotonic() - start:.0f} s', flush=True)",
        "while 1:\n    path.write_text(str(time.time()))\n    time.sleep(0.5)",
        "while True:\n    pages = int(open('/proc/self/statm').read().split()[1])\n    print(pages)\n    time.sleep(1)",
        "while True:\n    with path.open('a') as file:\n        file.write(json.dumps({'at': time.time()}) + '\\n')\n    time.sleep(1)",
        "for sign in itertools.cycle('|/-'):\n    sys.stderr.write(sign)\n    sys.stderr.flush()\n    time.sleep(0.2)",
    ],
)
def test_a_loop_that_only_sleeps_and_tells_is_a_pulse(body: str) -> None:
    assert judge(body)


@pytest.mark.quick
@pytest.mark.parametrize(
    "body",
    [
        "time.sleep(60)\nevent.set()",
        "while True:\n    time.sleep(1)\n    event.set()",
        "while True:\n    time.sleep(1)\n    queue.put(1)",
        "while True:\n    time.sleep(1)\n    queue.flush()",
        "while True:\n    time.sleep(1)\n    if os.getppid() == 1:\n        event.set()",
        "while True:\n    time.sleep(1)\n    os.kill(os.getpid(), 10)",
        "while not event.is_set():\n    time.sleep(1)",
        "while True:\n    time.sleep(1)\n    break",
        "while True:\n    with event:\n        time.sleep(1)",
        "while True:\n    time.sleep(1)\n    with event.lock():\n        print(1)",
        "while True:\n    time.sleep(1)\n    path.ready = True",
        "while True:\n    time.sleep(1)\n    print([queue.get() for _ in 'a'])",
        "while True:\n    time.sleep(1)\n    print(queue.get() or 1)",
        "while True:\n    time.sleep(1)\n    (yield)",
        "for second in range(30):\n    time.sleep(1)",
        "for batch in queue:\n    time.sleep(1)",
        "print = queue.put\nwhile True:\n    time.sleep(1)\n    print(1)",
        "while True:\n    time.sleep(1)\n    open = queue.put\n    open(1)",
    ],
)
def test_a_loop_that_may_do_anything_else_is_none(body: str) -> None:
    assert not judge(body)


@pytest.mark.quick
def test_a_name_that_is_not_the_modules_own_is_none() -> None:
    body = "while True:\n    time.sleep(1)\n    print(1)"
    assert judge(body)
    assert not judge(body, "from fake import time\n")
    assert not judge(body, HEAD + "class time: sleep = None\n")
    assert not judge(body, HEAD + "def print(text): done.set()\n")


@pytest.mark.quick
def test_a_source_that_was_changed_after_the_start_is_not_believed(tmp_path: Path) -> None:
    start = read_start(os.getpid()) or 0
    path = tmp_path / "job.py"
    path.write_text("import time\n")
    os.utime(path, (0, 0))
    assert read_tree(str(path), start) is not None
    os.utime(path, (time.time() + 60, time.time() + 60))
    assert read_tree(str(path), start) is None
    assert read_tree(str(tmp_path / "gone.py"), start) is None


def test_a_survey_marks_the_pulse_and_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "job.py"
    path.write_text(
        "import threading, time\n"
        "def beat():\n    while True:\n        time.sleep(0.1)\n        print('alive')\n"
        "def fetch():\n    time.sleep(600)\n    done.set()\n"
        "done = threading.Event()\n"
        "for work in (beat, fetch):\n    threading.Thread(target=work, name=work.__name__, daemon=True).start()\n"
        "print('ready', flush=True)\ndone.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-u", str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as job:
        try:
            assert job.stdout is not None
            assert job.stdout.readline() == b"ready\n"
            ref = ProcessRef(job.pid, read_start(job.pid) or 0)

            def pulses() -> dict[str, bool]:
                found = survey([ref], ref, at=time.monotonic(), clock=time.monotonic)
                return {thread.name: thread.is_pulse for thread in found.processes[0].threads if thread.state == "S"}

            until(lambda: pulses() == {"MainThread": False, "beat": True, "fetch": False})
        finally:
            job.kill()
