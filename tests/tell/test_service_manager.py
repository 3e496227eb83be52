"""What a service manager hears, on a real datagram socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import msgspec
import pytest

from unsloth_watch.model.live import SCHEMA, LiveState
from unsloth_watch.tell.nowline import describe_now
from unsloth_watch.tell.service import ServiceManager

pytestmark = pytest.mark.quick


@pytest.fixture(params=["path", "abstract"])
def ear(request: pytest.FixtureRequest, tmp_path) -> Iterator[tuple[socket.socket, str]]:
    """A socket as systemd has it, and its address as systemd writes it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"\0trial-{os.getpid()}-{os.urandom(4).hex()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(name)
        channel.setblocking(False)
        yield channel, name.replace("\0", "@")


def hear(channel: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(channel.recv(4096).decode())
        except BlockingIOError:
            return found


def make(address: str, **variables: str) -> ServiceManager:
    return ServiceManager({"NOTIFY_SOCKET": address, **variables}, 4711)


def test_ready_status_and_more_time_are_said_in_systemds_words(ear: tuple[socket.socket, str]) -> None:
    channel, address = ear
    manager = make(address)
    manager.ready(12)
    manager.status("attempt 1\nprogressing", 100.0)
    manager.extend(1.5)
    manager.reloading(2.0)
    manager.reloaded()
    manager.stopping()
    assert hear(channel) == [
        "READY=1\nSTATUS=started PID 12",
        "STATUS=attempt 1 progressing",
        "EXTEND_TIMEOUT_USEC=1500000",
        "RELOADING=1\nMONOTONIC_USEC=2000000",
        "READY=1",
        "STOPPING=1",
    ]


def test_the_watchdog_is_fed_by_the_tick_alone_and_often_enough(ear: tuple[socket.socket, str]) -> None:
    channel, address = ear
    manager = make(address, WATCHDOG_USEC="8000000", WATCHDOG_PID="4711")
    assert manager.beat_s == 2.0
    assert hear(channel) == []
    for tenth in range(100):
        manager.tick(tenth / 10)
    # Ten seconds in ticks of a tenth: once a second, which is eight times in the watchdog's eight seconds.
    assert hear(channel) == ["WATCHDOG=1"] * 10


@pytest.mark.parametrize(("usec", "pid"), [("", "4711"), ("0", "4711"), ("soon", "4711"), ("8000000", "12")])
def test_a_watchdog_that_is_off_or_meant_for_another_is_left_alone(ear: tuple[socket.socket, str], usec: str, pid: str) -> None:
    channel, address = ear
    manager = make(address, WATCHDOG_USEC=usec, WATCHDOG_PID=pid)
    manager.tick(1.0)
    assert manager.beat_s is None
    assert hear(channel) == []


def test_the_same_status_is_not_said_twice(ear: tuple[socket.socket, str]) -> None:
    channel, address = ear
    manager = make(address)
    for now in (10.0, 20.0, 30.0):
        assert manager.wants_status(now)
        manager.status("as before", now)
        assert not manager.wants_status(now + 1)
    assert hear(channel) == ["STATUS=as before"]


@pytest.mark.parametrize("address", ["", "/nonexistent/notify", "vsock:2:1", "@nobody-listens-here"])
def test_nobody_who_listens_is_no_error(address: str) -> None:
    manager = make(address, WATCHDOG_USEC="1000000")
    manager.ready(1)
    manager.tick(1.0)
    manager.stopping()


def live(**fields: object) -> LiveState:
    state = LiveState(SCHEMA, "id", "/run", ("true",), "/", 1, "running", 2, 3, 4.0)
    return msgspec.structs.replace(state, **fields)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "attempt 2 runs"),
        ({"state": "progressing", "job_phase": "train", "last_progress": "step 3 → 4 of 9", "last_progress_s": 75.0},
         "attempt 2 progressing in train; last progress 1 min 15 s ago: step 3 → 4 of 9"),
        ({"phase": "capturing"}, "attempt 2 counts as hung, evidence is being taken"),
        ({"phase": "waiting", "next_attempt_s": 4.0}, "waiting 4 s for attempt 3"),
        ({"is_paused": True}, "attempt 2 runs, not watched (paused)"),
        ({"state": "quiet", "is_ending": True, "status": "saving"}, "attempt 2 quiet; saving; ending was asked for"),
    ],
)  # fmt: skip
def test_a_moment_is_one_line(fields: dict[str, object], line: str) -> None:
    assert describe_now(live(**fields)) == line
