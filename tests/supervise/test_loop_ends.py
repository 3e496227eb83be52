"""Small things at the edge of the loop that must not be able to end it."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from unsloth_watch.act.terminal import _signal_group
from unsloth_watch.supervise.attach import Onlooker
from unsloth_watch.tell.service import ServiceManager


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as process:
        yield process
        process.kill()


def test_an_onlooker_lets_go_once_also_where_it_is_asked_again(sleeper: subprocess.Popen[bytes]) -> None:
    onlooker = Onlooker(sleeper.pid, os.pidfd_open(sleeper.pid))
    assert onlooker.close()
    assert onlooker.close()
    assert sleeper.poll() is None


@pytest.mark.quick
def test_a_service_manager_is_told_nothing_where_no_descriptor_is_left(tmp_path: Path) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}, os.getpid())
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        manager.tick(0.0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_ctrl_z_for_a_command_of_another_user_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_group: int, _number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "killpg", refuse)  # what the kernel says of a group that has become root's, and we may be root
    assert not _signal_group(12345, 19)
