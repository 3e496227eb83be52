"""Under a real systemd: ready, status, watchdog, stop, kill, limits, reload, arguments."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from service.conftest import Service, is_gone
from waiting import until

pytestmark = pytest.mark.slow

WORKER = """
import json, os, sys, time
environment = {name: os.environ.get(name) for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "UNSLOTH_WATCH_RUN_DIR")}
open("seen.tmp", "w").write(json.dumps({"pid": os.getpid(), "environment": environment, "words": sys.argv[1:]}) + "\\n")
os.rename("seen.tmp", "seen")
for step in range(100000):
    print(f"step {step}/100000", flush=True)
    time.sleep(0.1)
"""


def test_it_is_ready_when_the_command_runs_and_shows_what_it_does(service: Service) -> None:
    job = service.place / "job.py"
    job.write_text(WORKER)
    service.install(sys.executable, str(job))
    service.start()
    assert (service.show("ActiveState"), service.show("Type")) == ("active", "notify")
    until(lambda: "last progress" in service.show("StatusText"), seconds=30, every=0.2)
    assert "attempt 1 progressing" in service.show("StatusText")
    assert "of 100000" in service.show("StatusText")
    seen = json.loads(service.line("seen"))["environment"]
    # systemd's socket is ours; the command has one of its own, and no watchdog of systemd's.
    assert seen["NOTIFY_SOCKET"] == os.path.join(seen["UNSLOTH_WATCH_RUN_DIR"], "notify")
    assert seen["WATCHDOG_USEC"] is None
    assert service.machine.run("systemctl", "stop", service.unit).returncode == 0
    assert (service.show("ActiveState"), service.show("Result")) == ("inactive", "success")
    assert [summary["outcome"] for summary in service.summaries()] == ["interrupted"]


def test_every_word_of_the_command_arrives_as_it_was(service: Service) -> None:
    job = service.place / "job.py"
    job.write_text(WORKER)
    words = [
        "a b",
        "$HOME",
        "${HOME}",
        "$$",
        "100%",
        "%n",
        '"quoted"',
        "'",
        "back\\slash",
        "\\n",
        "new\nline",
        ";",
        "",
        "é€",
        "-x",
        "--",
        "#",
        "*",
    ]
    service.install(sys.executable, str(job), *words)
    service.start()
    assert json.loads(service.line("seen"))["words"] == words


def test_a_supervisor_that_stands_still_is_killed_by_the_watchdog_with_its_job_and_started_again(service: Service) -> None:
    job = service.place / "job.py"
    job.write_text(WORKER)
    service.install(sys.executable, str(job), WatchdogSec="2s")
    service.start()
    worker = service.machine.pid_outside(json.loads(service.line("seen"))["pid"])
    # Alive for longer than the watchdog without a fault: it is fed.
    until(lambda: len(service.events("attempt.started")) == 1 and _age_s(worker) > 5, seconds=30)
    assert service.show("NRestarts") == "0"
    (service.place / "seen").unlink()
    os.kill(service.main_pid(), signal.SIGSTOP)
    service.wait("NRestarts", "1")
    service.wait("SubState", "running")
    until(lambda: is_gone(worker))
    assert next(summary["outcome"] for summary in service.summaries()) is None


def _age_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK")


SAVER = """
import os, signal, sys, time
def save(*_):
    for part in range(20):
        if sys.argv[1] == "moves":
            print(f"saving {part}/20", flush=True)
        time.sleep(0.5)
    open("saved", "w").write("whole\\n")
    os._exit(0)
signal.signal(signal.SIGTERM, save)
open("ready", "w").write("yes\\n")
while True: signal.pause()
"""


@pytest.mark.parametrize(("kind", "result"), [("moves", "success"), ("silent", "timeout")])
def test_a_job_that_saves_gets_the_time_for_it_and_one_that_does_nothing_does_not(service: Service, kind: str, result: str) -> None:
    job = service.place / "job.py"
    job.write_text(SAVER)
    # The save takes 10 s: more than twice what the service is given.
    service.install(sys.executable, str(job), kind, TimeoutStopSec="4s")
    service.start()
    assert service.line("ready") == "yes"
    service.machine.run("systemctl", "stop", service.unit)
    assert service.show("Result") == result
    assert (service.place / "saved").exists() == (kind == "moves")
    assert service.show("NRestarts") == "0"


ESCAPER = """
import json, os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True, env={})
open("seen.tmp", "w").write(json.dumps([os.getpid(), child.pid]) + "\\n")
os.rename("seen.tmp", "seen")
time.sleep(600)
"""


def test_nobody_is_left_of_a_job_whose_supervisor_was_killed_and_it_starts_in_a_directory_of_its_own(service: Service) -> None:
    job = service.place / "job.py"
    job.write_text(ESCAPER)
    service.install(sys.executable, str(job))
    service.start()
    family = [service.machine.pid_outside(pid) for pid in json.loads(service.line("seen"))]
    os.kill(service.main_pid(), signal.SIGKILL)
    service.wait("NRestarts", "1")
    until(lambda: all(map(is_gone, family)))
    until(lambda: len(service.summaries()) == 2)
    assert service.summaries()[0]["outcome"] is None


def test_what_fails_again_and_again_ends_in_a_visible_state(service: Service) -> None:
    service.install("sleep", "600", StartLimitBurst="2")
    service.start()
    os.kill(service.main_pid(), signal.SIGKILL)
    service.wait("NRestarts", "1")
    service.wait("SubState", "running")
    os.kill(service.main_pid(), signal.SIGKILL)
    service.wait("ActiveState", "failed")
    refused = service.machine.run("systemctl", "start", service.unit)
    assert refused.returncode != 0
    assert len(service.summaries()) == 2


@pytest.mark.parametrize(
    ("script", "options", "status"),
    [
        ("exit 3", (), 3),
        ("kill -SEGV $$", (), 139),
        ("kill -KILL $$", (), 137),
        ("exec sleep 600", ("--stall-timeout", "2s", "--on-hang", "stop", "--grace", "0.2s"), 124),
        ("exit 9", ("--restart-on", "crash", "--max-restarts", "0"), 75),
    ],
)
def test_the_ways_a_command_may_end_are_not_answered_by_a_restart(
    service: Service, script: str, options: tuple[str, ...], status: int
) -> None:
    service.install("sh", "-c", script, options=options)
    service.machine.run("systemctl", "start", service.unit)  # may have ended before systemd looked
    service.wait("ActiveState", "failed", seconds=60)
    assert (service.show("ExecMainCode"), service.show("ExecMainStatus")) == ("1", str(status))
    assert service.show("NRestarts") == "0"
    assert len(service.summaries()) == 1


def test_a_failure_of_the_supervisor_itself_is_answered_by_a_restart(service: Service) -> None:
    service.install("sh", "-c", "exit 125", StartLimitBurst="2")  # to systemd the supervisor's own failure looks just so
    service.machine.run("systemctl", "start", service.unit)
    service.wait("ActiveState", "failed", seconds=60)
    assert len(service.summaries()) == 2


def test_a_reload_reads_the_settings_again_and_leaves_the_job_alone(service: Service) -> None:
    job = service.place / "job.py"
    job.write_text(WORKER)
    settings = service.place / "unsloth-watch.toml"
    settings.write_text('stall-timeout = "5m"\n')
    service.install(sys.executable, str(job))
    service.start()
    before = (service.show("MainPID"), json.loads(service.line("seen"))["pid"])
    settings.write_text('stall-timeout = "4m"\nstdin = "null"\n')
    done = service.machine.run("systemctl", "reload", service.unit)
    assert done.returncode == 0, done.stderr
    (event,) = service.events("settings.reloaded")
    assert (event["changed"], event["deferred"]) == ({"stall-timeout": 240.0}, ["stdin"])
    assert service.show("ActiveState") == "active"
    settings.write_text("stall-timeout = nonsense\n")
    assert service.machine.run("systemctl", "reload", service.unit).returncode != 0
    assert (service.show("MainPID"), json.loads(service.line("seen"))["pid"]) == before
    assert service.show("ActiveState") == "active"
    assert not is_gone(service.machine.pid_outside(before[1]))
