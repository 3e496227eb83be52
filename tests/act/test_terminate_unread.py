"""A tree that cannot be listed or read for a while: nobody is believed gone for that, and who is known is ended all the same."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from unsloth_watch.act.guardian import children_of, read_start_ticks
from unsloth_watch.act.terminate import UNKILLABLE_AFTER_S, Stage, Termination, inspect_unkillable, is_running
from unsloth_watch.sense.tree import ProcessTree
from waiting import until


@contextmanager
def without_descriptors() -> Iterator[None]:
    """Let nobody in this process open anything."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as process:
        yield process
        process.kill()


def identify(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    start = read_start_ticks(process.pid)
    assert start is not None
    return process.pid, start


def test_a_process_that_cannot_be_read_is_running_until_its_number_is_free(sleeper: subprocess.Popen[bytes]) -> None:
    member = identify(sleeper)
    with without_descriptors():
        assert is_running(*member)
        unread = inspect_unkillable(*member)
    assert unread is not None
    assert (unread.pid, unread.state) == (sleeper.pid, "?")
    sleeper.kill()
    sleeper.wait()
    with without_descriptors():
        assert not is_running(*member)


def test_while_nobody_can_be_listed_the_command_is_asked_to_end_and_nobody_is_believed_gone(
    sleeper: subprocess.Popen[bytes],
) -> None:
    member = identify(sleeper)

    def refuse() -> list[tuple[int, int]]:
        raise OSError(24, "Too many open files")

    answers = [refuse]

    def ask() -> list[tuple[int, int]]:
        return answers[0]()

    termination = Termination(ask, member, 100.0, now=0.0)
    assert termination.advance(0.0) is Stage.INTERRUPT
    assert [sent.signum for sent in termination.signals_sent] == [signal.SIGINT]
    assert sleeper.wait() == -signal.SIGINT
    assert termination.advance(1.0) is Stage.INTERRUPT, "somebody else may be there"
    answers[0] = list
    assert termination.advance(2.0) is Stage.DONE


def test_a_tree_that_can_never_be_listed_again_is_given_up_and_not_called_dead(sleeper: subprocess.Popen[bytes]) -> None:
    def refuse() -> list[tuple[int, int]]:
        raise OSError(5, "Input/output error")

    termination = Termination(refuse, identify(sleeper), 0.0, now=0.0)
    assert termination.advance(0.0) is Stage.KILL
    sleeper.wait()
    assert termination.advance(UNKILLABLE_AFTER_S) is Stage.UNKILLABLE
    assert termination.unkillable == ()


@pytest.mark.parametrize("has_children_files", [True, False])
def test_who_was_born_before_a_list_that_failed_is_found_by_the_next(
    monkeypatch: pytest.MonkeyPatch, has_children_files: bool
) -> None:
    def refuse(_path: str) -> list[str]:
        raise OSError(24, "Too many open files")

    born = [1]
    shell = "read go; sleep 600 & read end; kill $!"
    with subprocess.Popen(["sh", "-c", shell], stdin=subprocess.PIPE) as parent:
        assert parent.stdin is not None
        tree = ProcessTree((parent.pid,), has_children_files=has_children_files, last_pid=lambda: born[0])
        assert tree.members() == ()
        parent.stdin.write(b"go\n")
        parent.stdin.flush()
        until(lambda: children_of(parent.pid))
        born[0] += 1  # what the kernel's last number says: nobody was born after this
        with monkeypatch.context() as context:
            context.setattr(os, "listdir", refuse)
            with pytest.raises(OSError, match="Too many open files"):
                tree.members()
        assert len(tree.members()) == 1
        tree.close()
        parent.stdin.write(b"end\n")
        parent.stdin.close()
