"""Pulses: what a thread's own text must say before the proof leaves it out."""

from __future__ import annotations

import ast
import contextlib
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unsloth_watch.capture.capture import survey
from unsloth_watch.capture.process import read_start
from unsloth_watch.capture.pulses import read_tree
from unsloth_watch.capture.pulsetext import is_pulse
from unsloth_watch.judge.quiescence import Proof, prove
from unsloth_watch.model.evidence import Evidence
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.waits.scene import Doubt
from waiting import until

HEAD = "import itertools\nimport json\nimport os\nimport subprocess\nimport sys\nimport threading\nimport time\n"


def judge(body: str, head: str = HEAD) -> bool:
    """Whether the line with the sleep in a thread's function is one of a pulse."""
    text = head + "def report(path, queue, event):\n" + textwrap.indent(textwrap.dedent(body).strip("\n"), "    ") + "\n"
    is_event = ".wait(" in body
    line = next(number for number, row in enumerate(text.split("\n"), start=1) if (".wait(" if is_event else "sleep(") in row)
    return is_pulse(ast.parse(text), line, is_event=is_event)


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
        "while True:\n    subprocess.run(['uname', '-a'], stdout=subprocess.DEVNULL, check=False)\n    time.sleep(1)",
        "while True:\n    out = subprocess.check_output(['/usr/bin/nvidia-smi', '-q'], text=True)\n    print(out)\n    time.sleep(1)",
        "while not event.wait(5):\n    print('alive', flush=True)",
        "while not event.is_set():\n    print('alive', flush=True)\n    event.wait(path.seconds)",
        "while True:\n    print('alive', flush=True)\n    if event.wait(5):\n        break",
        "while True:\n    if path.stop.wait(5):\n        return\n    print('alive', flush=True)",
        "for sign in itertools.cycle('|/-'):\n    sys.stderr.write(sign)\n    event.wait(1)",
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
        "sys.stdout = queue\nwhile True:\n    time.sleep(1)\n    print('alive')",
        "sys.stderr.write = queue.put\nwhile True:\n    time.sleep(1)\n    sys.stderr.write('alive')",
        "with redirect_stdout(queue):\n    while True:\n        time.sleep(1)\n        print('alive')",
        "while True:\n    time.sleep(1)\n    print('alive', file=queue)",
        "for second in range(30):\n    time.sleep(1)",
        "for batch in queue:\n    time.sleep(1)",
        "print = queue.put\nwhile True:\n    time.sleep(1)\n    print(1)",
        "while True:\n    time.sleep(1)\n    open = queue.put\n    open(1)",
        "while True:\n    subprocess.run(['kill', '1'])\n    time.sleep(1)",
        "while True:\n    subprocess.run(['uname', path])\n    time.sleep(1)",
        "while True:\n    subprocess.run('uname', shell=True)\n    time.sleep(1)",
        "while True:\n    subprocess.run(['uname'], executable='/bin/kill')\n    time.sleep(1)",
        "while True:\n    subprocess.run(['uname'], preexec_fn=queue.put)\n    time.sleep(1)",
        "while True:\n    subprocess.Popen(['uname'])\n    time.sleep(1)",
        "event.wait(5)\nqueue.put(1)",
        "while not event.wait(5):\n    queue.put(1)",
        "while not event.wait(queue.get()):\n    print(1)",
        "while not path.is_set():\n    event.wait(5)",
        "while path.is_open:\n    event.wait(5)",
        "while not event.wait(5):\n    event = path.next",
        "while not event.wait(5):\n    print(1)\nelse:\n    queue.put(1)",
        "while True:\n    if event.wait(5):\n        queue.put(1)",
        "while True:\n    if event.wait(5):\n        break\n    else:\n        queue.put(1)",
        "while True:\n    if not event.wait(5):\n        break",
        "while True:\n    print(event.wait(5))",
        "while True:\n    path.make().wait(5)",
        "for batch in queue:\n    event.wait(5)",
        "for sign in itertools.cycle(queue.get()):\n    event.wait(5)",
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


MONITORS = """
import threading, time
stop, done = threading.Event(), threading.Event()
def beat():
    while True:
        time.sleep(0.1)
        print('alive')
def watch():
    while not stop.wait(0.1):
        print('alive')
class Sampler(threading.Thread):
    def run(self):
        while not stop.is_set():
            print('alive')
            stop.wait(0.1)
def fetch():
    time.sleep(600)
    done.set()
def end():
    time.sleep(600)
    stop.set()
def start(*works):
    print('ready', flush=True)
    Sampler(name='sampler', daemon=True).start()
    for work in works:
        threading.Thread(target=work, name=work.__name__, daemon=True).start()
    done.wait()
"""


@contextlib.contextmanager
def surveyed(place: Path, *works: str) -> Iterator[Callable[[], Evidence]]:
    """Start a program whose main thread waits beside such threads; yield what takes a survey of it."""
    path = place / "job.py"
    path.write_text(MONITORS + f"start({', '.join(works)})\n")
    with subprocess.Popen([sys.executable, "-u", str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as job:
        try:
            assert job.stdout is not None
            assert job.stdout.readline() == b"ready\n"
            ref = ProcessRef(job.pid, read_start(job.pid) or 0)
            yield lambda: survey([ref], ref, at=time.monotonic(), clock=time.monotonic)
        finally:
            job.kill()


def test_a_survey_marks_the_pulses_and_nobody_else(tmp_path: Path) -> None:
    with surveyed(tmp_path, "beat", "watch", "fetch") as take:

        def pulses() -> dict[str, bool]:
            return {thread.name: thread.is_pulse for thread in take().processes[0].threads if thread.state == "S"}

        until(lambda: pulses() == {"MainThread": False, "beat": True, "watch": True, "sampler": True, "fetch": False})


def test_a_hang_beside_threads_that_wait_to_be_told_to_end_is_proven(tmp_path: Path) -> None:
    with surveyed(tmp_path, "watch") as take:
        until(lambda: any(thread.is_pulse for thread in take().processes[0].threads))
        surveys = [take()]

        def find() -> Proof | Doubt:
            surveys.append(take())
            found = prove(surveys, is_gpu_idle=True)
            if isinstance(found, Doubt) and not found.is_open:
                surveys[:] = surveys[-1:]  # somebody was awake at that moment
            return found

        until(lambda: isinstance(find(), Proof))


def test_it_is_not_proven_while_somebody_may_still_tell_them(tmp_path: Path) -> None:
    with surveyed(tmp_path, "watch", "end") as take:
        until(lambda: {thread.name for thread in take().processes[0].threads if thread.is_pulse} == {"watch", "sampler"})
        found = prove([take()], is_gpu_idle=True)
        assert isinstance(found, Doubt)
        assert not found.is_open
