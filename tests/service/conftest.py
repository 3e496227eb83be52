"""Fixtures: a booted systemd, and services in it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from machine import Machine, boot_or_skip
from unsloth_watch.tell.events import read_events
from waiting import until
from watched import PROGRAM


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One systemd for all tests."""
    machine = boot_or_skip(tmp_path_factory.mktemp("machine"))
    yield machine
    machine.close()


class Service:
    """A command as a service of the machine, by the unit that the program itself prints.

    Args:
        machine: Where it runs.
        name: Its name.
    """

    def __init__(self, machine: Machine, name: str) -> None:
        self.machine = machine
        self.place = machine.place / name
        self.place.mkdir()
        self.name = name
        self.unit = f"unsloth-watch-{name}.service"
        self.runs = self.place / "runs"

    def install(self, *command: str, options: tuple[str, ...] = (), **keys: str) -> None:
        """Install it, with some keys set otherwise; it is not started."""
        words = [*PROGRAM, "service", "print", "--name", self.name, "--runs-dir", str(self.runs), "--interval", "0.2s", *options]
        environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
        printed = subprocess.run(
            [*words, "--", *command], cwd=self.place, env=environment, capture_output=True, text=True, check=True
        )
        (self.place / "unit").write_text(printed.stdout)
        sections = {"Unit": ("StartLimitBurst", "StartLimitIntervalSec")}
        lines = {"Unit": "", "Service": "RestartSec=100ms\n"}
        for key, value in keys.items():
            lines["Unit" if key in sections["Unit"] else "Service"] += f"{key}={value}\n"
        (self.place / "drop").write_text("".join(f"[{section}]\n{text}" for section, text in lines.items()))
        folder = f"/run/systemd/system/{self.unit}"
        script = f"cp {self.place}/unit {folder} && mkdir -p {folder}.d && cp {self.place}/drop {folder}.d/ && mv {folder}.d/drop {folder}.d/t.conf && systemctl daemon-reload"
        done = self.machine.run("sh", "-c", script)
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Start it; returns when it is ready."""
        done = self.machine.run("systemctl", "start", self.unit)
        assert done.returncode == 0, done.stderr + self.machine.journal(self.unit)

    def show(self, key: str) -> str:
        """Return a property."""
        return self.machine.show(self.unit, key)

    def main_pid(self) -> int:
        """Return our number of the supervisor."""
        return self.machine.pid_outside(int(self.show("MainPID")))

    def wait(self, key: str, value: str, seconds: float = 40) -> None:
        """Wait until a property has a value."""
        until(lambda: self.show(key) == value, seconds=seconds, every=0.1)

    def line(self, name: str) -> str:
        """Wait for the first line of a file that the command writes."""
        path = self.place / name
        return until(
            lambda: path.read_text().split("\n")[0] if path.exists() and "\n" in path.read_text() else "", seconds=30, every=0.05
        )

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the events of one name, of all starts."""
        return [
            event for path in sorted(self.runs.glob("*/events.jsonl")) for event in read_events(str(path)) if event["event"] == name
        ]

    def summaries(self) -> list[dict[str, Any]]:
        """Return run.json of all starts, oldest first."""
        return [json.loads(path.read_text()) for path in sorted(self.runs.glob("*/run.json"))]


@pytest.fixture
def service(machine: Machine, request: pytest.FixtureRequest) -> Iterator[Service]:
    """A service of this test's own."""
    number = len(list(machine.place.iterdir()))
    service = Service(machine, f"trial{number}")
    yield service
    machine.run("systemctl", "kill", "--signal", "SIGKILL", service.unit)
    machine.run("systemctl", "stop", service.unit)


def is_gone(pid: int) -> bool:
    """Whether nobody has a number any more."""
    return not Path(f"/proc/{pid}").exists()
