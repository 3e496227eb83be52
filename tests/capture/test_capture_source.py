"""Source lines of blocked threads, and owners of native mutexes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from unsloth_watch.capture.capture import capture
from unsloth_watch.capture.process import read_start
from unsloth_watch.capture.source import find_holds
from unsloth_watch.capture.waits import read_tasks
from unsloth_watch.model.evidence import ProcessEvidence
from unsloth_watch.model.process import ProcessRef
from waiting import until

TEXT = textwrap.dedent(
    """
    def outer(model, disk):
        with model, open("x"):
            if model:
                disk.acquire()
                save()
        disk.release()
        after()

    class Trainer:
        async def step(self):
            async with self.lock:
                # a comment at a smaller place
                await self.work(
                    1,
                )

    def nested():
        with a:
            def inner():
                call()
            inner()
    """
).split("\n")


def line_of(words: str) -> int:
    return next(number for number, line in enumerate(TEXT, start=1) if words in line)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("words", "function", "expected"),
    [
        ("save()", "outer", ("model", "open('x')", "disk")),
        ("with model", "outer", ()),
        ("disk.acquire()", "outer", ("model", "open('x')")),
        ("after()", "outer", ()),
        ("await self.work(", "step", ("self.lock",)),
        ("            call()", "inner", ()),
        ("        inner()", "nested", ("a",)),
        ("save()", "other", None),
    ],
)
def test_what_a_function_holds_at_a_line(words: str, function: str, expected: tuple[str, ...] | None) -> None:
    assert find_holds(TEXT, line_of(words), function) == expected


@pytest.mark.quick
@pytest.mark.parametrize(("is_asking", "expected"), [(True, ("a",)), (False, ("a", "b"))])
def test_a_block_in_one_line_asks_for_its_lock_until_something_is_called_from_it(
    is_asking: bool, expected: tuple[str, ...]
) -> None:
    text = ["def save():", "    with a:", "        with b: write()"]
    assert find_holds(text, 3, "save", is_asking=is_asking) == expected


@pytest.mark.quick
def test_a_text_that_is_no_python_holds_nothing() -> None:
    assert find_holds(["def broken(:", "    wait()"], 2, "broken") == ()


def capture_blocked(tmp_path: Path, script: str) -> ProcessEvidence:
    """Run a script that says ``ready`` and then blocks its main thread in a futex; return what a capture sees."""
    path = tmp_path / "job.py"
    path.write_text(textwrap.dedent(script))
    with subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            until(lambda: any(task.wait_channel and "futex" in task.wait_channel for task in read_tasks(process.pid)))
            start = read_start(process.pid)
            assert start is not None
            ref = ProcessRef(process.pid, start)
            evidence = capture([ref], ref, at=time.monotonic(), clock=time.monotonic)
            return evidence.processes[0]
        finally:
            process.kill()


def test_a_blocked_thread_shows_the_lock_it_wants_and_the_one_it_holds(tmp_path: Path) -> None:
    process = capture_blocked(
        tmp_path,
        """
        import threading
        model, disk = threading.Lock(), threading.Lock()
        disk.acquire()
        def save():
            with disk:
                pass
        def step():
            with model:
                print("ready", flush=True)
                save()
        step()
        """,
    )
    lines = {line.text: line.holds for line in process.threads[0].lines}
    assert lines["with disk:"] == ()
    assert lines["save()"] == ("model",)


def test_the_owner_of_a_native_mutex_is_read_from_the_mutex(tmp_path: Path) -> None:
    process = capture_blocked(
        tmp_path,
        """
        import ctypes
        libc = ctypes.CDLL(None)
        mutex = ctypes.create_string_buffer(64)
        libc.pthread_mutex_lock(mutex)
        print("ready", flush=True)
        libc.pthread_mutex_lock(mutex)
        """,
    )
    assert process.threads[0].mutex_owner == process.ref.pid
