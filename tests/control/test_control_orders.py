"""Orders to a running supervisor, by the command line and by the socket itself."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from unsloth_watch.supervise.control import NAME
from waiting import until
from watched import PROGRAM, Watched

COUNTER = """
import os, time
print("PID", os.getpid(), flush=True)
for step in range(100000):
    print(f"step {step}/100000", flush=True)
    time.sleep(0.1)
"""
OPTIONS = ("--interval", "0.1s", "--grace", "1s")


class Controlled:
    """A run, and the verbs that speak to it."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self.directory = watched.directory
        self.process = watched.start(sys.executable, watched.script(COUNTER), options=OPTIONS, env=watched.environment())
        self.follow()
        until((self.directory / "run.json").exists)  # the command is started before the supervisor settles down

    def follow(self) -> None:
        """Wait until an attempt counts."""
        assert self.process.stdout is not None
        line = b""
        while not line.startswith(b"PID "):
            line = self.process.stdout.readline()
            assert line, "the output ended"
        self.pid = int(line.split()[1])

    def verb(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a verb of ours on this run."""
        command = [*PROGRAM, *words, str(self.directory)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=self.watched.environment(), timeout=60)

    def show(self) -> dict[str, Any]:
        """Return the live state."""
        answer = self.verb("show", "--json")
        assert answer.returncode == 0, answer.stderr
        live: dict[str, Any] = json.loads(answer.stdout)["live"]
        return live

    def connect(self) -> socket.socket:
        """Return a connection to the control socket."""
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        channel.settimeout(20)
        channel.connect(str(self.directory / NAME))
        return channel

    def close(self) -> None:
        """End it, whatever it is doing."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def controlled(watched: Watched) -> Iterator[Controlled]:
    controlled = Controlled(watched)
    yield controlled
    controlled.close()


def test_show_says_what_the_run_is_doing_and_how_it_ended(controlled: Controlled) -> None:
    live = until(lambda: found if (found := controlled.show())["last_progress"] else None)
    assert (live["phase"], live["state"], live["attempt"], live["pid"]) == ("running", "progressing", 1, controlled.pid)
    assert live["supervisor_pid"] == controlled.process.pid
    assert "of 100000" in live["last_progress"]
    assert live["limit_s"] >= 180  # more on a crowded machine
    assert "progressing" in controlled.verb("show").stdout.splitlines()[0]
    stopped = controlled.verb("stop")
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert "interrupted, exit status 143" in stopped.stdout
    assert "interrupted, exit status 143" in controlled.verb("show").stdout
    assert json.loads(controlled.verb("show", "--json").stdout)["live"] is None
    assert not psutil.pid_exists(controlled.pid)
    again = controlled.verb("stop")
    assert again.returncode != 0
    assert "no supervisor answers" in again.stderr


def test_restart_ends_the_attempt_and_starts_the_next_without_counting_it(controlled: Controlled) -> None:
    before = controlled.pid
    assert controlled.verb("restart").returncode == 0
    controlled.follow()
    assert controlled.pid != before
    assert not psutil.pid_exists(before)
    live = controlled.show()
    assert (live["attempt"], live["restarts"], live["incidents"]) == (2, 0, 0)
    (first, second) = controlled.watched.summary()["attempts"]
    assert (first["reason"], second["reason"]) == ("restart asked for", None)


def test_capture_takes_the_stacks_and_leaves_the_job_alone(controlled: Controlled) -> None:
    until(lambda: controlled.show()["state"])
    answer = controlled.verb("capture")
    assert (answer.returncode, answer.stderr) == (0, "")
    with open(answer.stdout.strip()) as stream:
        assert "job.py" in stream.read()
    report = json.loads((controlled.directory / "incidents/01/report.json").read_text())
    assert report["verdict"]["state"] != "hung"
    assert [event["event"] for event in controlled.watched.events()].count("incident.captured") == 1
    assert not controlled.watched.events("hang.detected")
    (incident,) = controlled.watched.summary()["incidents"]
    assert incident["is_asked_for"]
    assert psutil.Process(controlled.pid).status() != psutil.STATUS_STOPPED
    assert controlled.show()["attempt"] == 1


def test_nobody_is_ended_for_a_hang_while_watching_is_paused_and_it_is_found_after_the_resume(watched: Watched) -> None:
    # A real hang from the start: found within two seconds of watching, and not at all while it is paused.
    options = ("--interval", "0.1s", "--stall-timeout", "2s", "--on-hang", "stop", "--grace", "0.5s")
    with watched.start("sleep", "600", options=options) as process:
        until((watched.directory / NAME).exists)

        def verb(name: str) -> None:
            subprocess.run([*PROGRAM, name, str(watched.directory)], check=True, capture_output=True, env=watched.environment())

        verb("pause")
        size = until(lambda: watched.events("watch.paused"))
        assert len(size) == 1
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(4)
        assert not watched.events("hang.detected")
        verb("resume")
        process.communicate(timeout=60)
    assert process.returncode == 124
    assert [event["event"] for event in watched.events() if event["event"].startswith(("watch", "hang"))] == [
        "watch.paused", "watch.resumed", "hang.detected",
    ]  # fmt: skip


def test_clients_that_say_nothing_or_nonsense_hold_nobody_up(controlled: Controlled) -> None:
    until(lambda: controlled.show()["last_progress"])
    idle = [controlled.connect() for _ in range(10)]  # more than are served at a time
    nonsense = idle[0]
    nonsense.sendall(b"{nonsense\n")
    assert b"not a request" in nonsense.recv(65536)
    first = controlled.watched.events("attempt.started")[0]["attempt"]
    # The others get their answer once the idle ones have been dropped, and the job is watched all the while.
    samples = (controlled.directory / "samples.jsonl").stat().st_size
    assert controlled.show()["attempt"] == first == 1
    assert (controlled.directory / "samples.jsonl").stat().st_size > samples
    for channel in idle:
        channel.close()


def test_unknown_verbs_and_endless_requests_are_refused(controlled: Controlled) -> None:
    with controlled.connect() as channel:
        channel.sendall(b'{"verb": "dance"}\n')
        answer = json.loads(channel.recv(65536))
    assert not answer["ok"]
    assert "known: show" in answer["error"]
    with controlled.connect() as channel, pytest.raises((BrokenPipeError, ConnectionResetError)):
        channel.sendall(b"x" * (64 << 20))
    assert controlled.show()["phase"] == "running"


def test_the_socket_is_private_and_goes_with_the_run(controlled: Controlled) -> None:
    path = controlled.directory / NAME
    assert path.stat().st_mode & 0o777 == 0o600
    controlled.verb("stop")
    assert not path.exists()


def test_another_user_is_not_answered_even_where_the_directory_lets_him_in(controlled: Controlled) -> None:
    if os.getuid() != 0:
        pytest.skip("becoming another user needs root; run the tests as root")
    parents = controlled.directory.parents
    for place in (controlled.directory, *parents[: len(parents) - len(Path(tempfile.gettempdir()).parts)]):
        place.chmod(0o755)
    (controlled.directory / NAME).chmod(0o666)
    code = (
        "import os, socket, sys\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect(sys.argv[1])\n"
        'try:\n s.sendall(b\'{"verb": "stop"}\\n\'); print(s.recv(100))\n'
        "except OSError as error: print(b'')\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, str(controlled.directory / NAME)], capture_output=True, text=True, check=False
    )
    assert answer.stdout.strip() == "b''", answer.stderr
    assert controlled.show()["is_ending"] is False


def test_a_run_directory_of_any_length_has_its_socket(tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("long")
    watched = Watched(place)
    watched.directory = place / ("d" * 100) / ("e" * 100)
    with watched.start("sleep", "600") as process:
        until(lambda: (watched.directory / NAME).exists() and watched.events("attempt.started"))
        done = subprocess.run(
            [*PROGRAM, "stop", str(watched.directory)], capture_output=True, text=True, check=False, env=watched.environment()
        )
        assert done.returncode == 0, done.stderr
        process.communicate(timeout=30)
    assert process.returncode == -15


def test_stop_by_force_ends_what_ignores_every_request(watched: Watched) -> None:
    with watched.start(
        "sh", "-c", "trap '' INT TERM; echo ready; while :; do sleep 0.1; done", options=("--grace", "0.3s")
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        until((watched.directory / "run.json").exists)
        words = [*PROGRAM, "stop", "--force", str(watched.directory)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=watched.environment(), timeout=60)
        process.communicate(timeout=60)
    assert done.returncode == 0, done.stderr
    assert process.returncode == -9
    signals = [event["signal"] for event in watched.events("attempt.terminating")]  # each again for who was born meanwhile
    assert list(dict.fromkeys(signals)) == ["SIGINT", "SIGTERM", "SIGKILL"]
    assert watched.summary()["outcome"] == "interrupted"


def test_reload_counts_from_the_next_look_on_and_a_wrong_file_changes_nothing(watched: Watched) -> None:
    settings = watched.place / "unsloth-watch.toml"
    settings.write_text('stall-timeout = "10m"\nbusy-timeout = "20m"\n')
    options = ("--interval", "0.1s", "--on-hang", "stop", "--grace", "0.3s")
    with watched.start("sleep", "600", options=options) as process:
        until(lambda: watched.events("attempt.started") and (watched.directory / "run.json").exists())

        def reload() -> subprocess.CompletedProcess[str]:
            words = [*PROGRAM, "reload", str(watched.directory)]
            return subprocess.run(words, capture_output=True, text=True, check=False, env=watched.environment(), timeout=60)

        settings.write_text('stal-timeout = "2s"\n')
        wrong = reload()
        assert wrong.returncode != 0
        assert "did you mean stall-timeout" in wrong.stderr
        assert not watched.events("settings.reloaded")
        settings.write_text('stall-timeout = "2s"\nbusy-timeout = "20m"\n')
        assert "stall-timeout is now 2.0" in reload().stdout
        process.communicate(timeout=60)
    assert process.returncode == 124
    assert len(watched.summary()["attempts"]) == 1
