"""Children that say when they are ready, and never outlive their test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from unsloth_watch.model.process import ProcessRef
from unsloth_watch.sense.stat import read_stat

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start Python code and wait for its first line, kept as ``said``.

    Each child leads a session, which is killed in the end. What leaves the session must end at the end of its standard input.
    """
    children: list[subprocess.Popen[str]] = []

    def start_child(code: str, *arguments: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        children.append(child)
        assert child.stdout is not None
        child.said = child.stdout.readline().strip()  # type: ignore[attr-defined]
        assert child.said, f"the child ended with {child.wait()} before it was ready"  # type: ignore[attr-defined]
        return child

    yield start_child
    for child in children:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass


@pytest.fixture
def ref_of() -> Callable[[int], ProcessRef]:
    """Return the identity of a living process."""

    def identify(pid: int) -> ProcessRef:
        stat = read_stat(pid)
        assert stat is not None
        return ProcessRef(pid, stat.start_ticks)

    return identify
