"""Delegated control groups, a user's own manager, and a service that may not look into processes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from machine import Machine
from service.conftest import Service
from waiting import until
from watched import PROGRAM

pytestmark = pytest.mark.slow

# Two processes that do nothing but replace each other, deaf to every request: a walk through the tree may miss one each time.
STORM = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
open("seen", "w").write(open("/proc/self/cgroup").read().splitlines()[-1] + "\\n")
if os.fork() == 0:
    while True:
        if os.fork(): os._exit(0)
while True: signal.pause()
"""


def test_the_job_has_a_group_of_its_own_and_a_fork_storm_ends_with_it(service: Service) -> None:
    job = service.place / "job.py"
    job.write_text(STORM)
    service.install(sys.executable, str(job), options=("--grace", "0.3s"))
    service.start()
    theirs = service.line("seen").removeprefix("0::")
    ours = service.show("ControlGroup")
    assert theirs.startswith(f"{ours}/unsloth-watch-")
    assert theirs.endswith("-1")
    stopped = service.machine.run(*PROGRAM, "stop", "--force", str(next(service.runs.iterdir())))
    assert stopped.returncode == 0, stopped.stderr + stopped.stdout
    service.wait("SubState", "failed")
    assert service.show("ExecMainStatus") == "137"
    assert [event["how"] for event in service.events("attempt.terminating") if "how" in event] == ["cgroup.kill"]
    assert service.show("NRestarts") == "0"


def test_the_group_of_an_attempt_goes_with_it(service: Service) -> None:
    service.install("sh", "-c", "grep ^0:: /proc/self/cgroup > seen.tmp; mv seen.tmp seen$UNSLOTH_WATCH_ATTEMPT; exec sleep 600")
    service.start()
    first = service.line("seen1").rpartition("/")[2]
    restarted = service.machine.run(*PROGRAM, "restart", str(next(service.runs.iterdir())))
    assert restarted.returncode == 0, restarted.stderr
    second = service.line("seen2").rpartition("/")[2]
    assert second.endswith("-2")
    found = service.machine.run("find", "/sys/fs/cgroup", "-type", "d", "-name", "unsloth-watch-*-[12]").stdout
    assert first not in found
    assert second in found


def test_without_delegation_no_group_is_touched(service: Service) -> None:
    service.install("sh", "-c", "grep ^0:: /proc/self/cgroup > seen.tmp; mv seen.tmp seen; exec sleep 600", Delegate="no")
    service.start()
    assert service.line("seen").removeprefix("0::") == service.show("ControlGroup")


def test_a_service_that_may_not_trace_finds_its_hang_and_has_the_stack_by_the_way_that_pauses_nobody(service: Service) -> None:
    job = service.place / "job.py"
    job.write_text("import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()\n")
    options = ("--stall-timeout", "3s", "--on-hang", "stop", "--grace", "0.3s")
    service.install(sys.executable, str(job), options=options, SystemCallFilter="~@debug process_vm_readv process_vm_writev")
    service.start()
    service.wait("ActiveState", "failed", seconds=60)
    assert service.show("ExecMainStatus") == "124"
    report = json.loads(next(service.runs.glob("*/incidents/01/report.json")).read_text())
    (process,) = report["processes"]
    assert process["stack_method"] == "nonblocking"
    assert str(job) in json.dumps(report["stack_groups"])


@pytest.fixture
def user_manager(machine: Machine) -> Iterator[dict[str, str]]:
    """A user's own systemd, root's for want of a Python that others may execute; yields the variables that reach it."""
    home = machine.place / f"home{os.urandom(2).hex()}"
    home.mkdir()
    variables = {"XDG_RUNTIME_DIR": f"/run/{home.name}", "HOME": str(home), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    machine.run("mkdir", "-m", "700", variables["XDG_RUNTIME_DIR"])
    settings = [f"--setenv={name}={value}" for name, value in variables.items()]
    begun = machine.run(
        "systemd-run", f"--unit=manager-{home.name}", "--property=Delegate=yes", "--property=Type=notify", *settings,
        "/lib/systemd/systemd", "--user",
    )  # fmt: skip
    assert begun.returncode == 0, begun.stderr
    yield variables
    machine.run("systemctl", "stop", f"manager-{home.name}")


def run_in(machine: Machine, variables: dict[str, str], *words: str):
    return machine.run("env", *(f"{name}={value}" for name, value in variables.items()), *words)


def test_a_user_installs_starts_and_stops_a_service_of_his_own(machine: Machine, user_manager: dict[str, str]) -> None:
    home = Path(user_manager["HOME"])
    job = ["sh", "-c", "cd && pwd > seen.tmp && grep ^0:: /proc/self/cgroup >> seen.tmp && mv seen.tmp seen && exec sleep 600"]
    installed = run_in(machine, user_manager, *PROGRAM, "service", "install", "--user", "--name", "own", "--", *job)
    assert installed.returncode == 0, installed.stderr
    assert installed.stderr == ""
    for words in (("daemon-reload",), ("start", "unsloth-watch-own.service")):
        done = run_in(machine, user_manager, "systemctl", "--user", *words)
        assert done.returncode == 0, done.stderr
    until((home / "seen").exists)
    assert "/unsloth-watch-" in (home / "seen").read_text().splitlines()[-1].rpartition(".service")[2]
    status = run_in(
        machine, user_manager, "systemctl", "--user", "show", "--property=StatusText", "--value", "unsloth-watch-own.service"
    )
    assert status.stdout.strip()
    found = run_in(machine, user_manager, *PROGRAM, "runs", "--json")
    (row,) = json.loads(found.stdout)["runs"]
    assert row["live"]["phase"] == "running"
    assert run_in(machine, user_manager, "systemctl", "--user", "stop", "unsloth-watch-own.service").returncode == 0
    (row,) = json.loads(run_in(machine, user_manager, *PROGRAM, "runs", "--json").stdout)["runs"]
    assert row["run"]["outcome"] == "interrupted"


def test_a_scope_with_delegation_gives_the_job_a_group(machine: Machine, user_manager: dict[str, str]) -> None:
    words = [
        "systemd-run",
        "--user",
        "--scope",
        "--quiet",
        "-p",
        "Delegate=yes",
        *PROGRAM,
        "--quiet",
        "--",
        "grep",
        "^0::",
        "/proc/self/cgroup",
    ]
    done = run_in(machine, user_manager, *words)
    assert done.returncode == 0, done.stderr
    assert "/unsloth-watch-" in done.stdout.strip().splitlines()[-1].rpartition(".scope")[2]
