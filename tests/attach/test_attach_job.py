"""A job that already runs is watched, and ended or relaunched only where that was asked for."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from unsloth_watch.sense.exitinfo import read_exit_status
from waiting import until
from watched import PROGRAM, Watched

FAST = ("--interval", "0.1s", "--stall-timeout", "2s", "--grace", "0.5s")
Begin = Callable[..., "subprocess.Popen[bytes]"]

# Hangs the first time, and goes through when the file is there: what a relaunch needs to be seen.
TWICE = """
import os, sys, time
first = not os.path.exists("been-here")
open("been-here", "a").write(os.environ.get("KEPT", "") + " " + " ".join(sys.argv[1:]) + "\\n")
print("ready", flush=True)
time.sleep(600 if first else 0)
print("done", flush=True)
sys.exit(4)
"""


@pytest.fixture
def begin(watched: Watched) -> Iterator[Begin]:
    """Start a job as a user would, without any supervisor."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str, **variables: str) -> subprocess.Popen[bytes]:
        job = subprocess.Popen(
            words, cwd=watched.place, env=watched.environment(**variables), stdout=subprocess.PIPE, start_new_session=True
        )
        started.append(job)
        return job

    yield start
    for job in started:
        job.kill()
        job.communicate()


def attach(watched: Watched, pid: int, *options: str) -> subprocess.Popen[bytes]:
    words = [*PROGRAM, "attach", "--run-dir", str(watched.directory), *options, str(pid)]
    elsewhere = watched.place / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    return subprocess.Popen(
        words, cwd=elsewhere, env=watched.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_a_hang_is_reported_and_the_job_is_left_alone_unless_more_was_asked_for(watched: Watched, begin: Begin) -> None:
    job = begin("sleep", "600")
    with attach(watched, job.pid, *FAST) as process:
        until(lambda: watched.events("incident.captured"), seconds=60)
        assert watched.events("hang.detected")[0]["cause"]
        assert job.poll() is None
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 143
    assert job.poll() is None
    assert not watched.events("attempt.terminating")
    assert watched.summary()["outcome"] == "interrupted"
    assert watched.summary()["command"] == ["sleep", "600"]


def test_with_on_hang_stop_the_whole_tree_of_the_job_is_ended(watched: Watched, begin: Begin) -> None:
    script = watched.script(
        "import subprocess, sys\nchild = subprocess.Popen(['sleep', '600'], start_new_session=True)\nprint(child.pid, flush=True)\nchild.wait()"
    )
    job = begin(sys.executable, script)
    assert job.stdout is not None
    child = int(job.stdout.readline())
    with attach(watched, job.pid, *FAST, "--on-hang", "stop") as process:
        assert job.wait(timeout=60) != 0
        process.communicate(timeout=60)
    assert process.returncode == 124
    until(lambda: not psutil.pid_exists(child))
    assert watched.summary()["outcome"] == "hung"


def test_a_hung_job_is_launched_again_from_its_own_words_directory_and_environment(watched: Watched, begin: Begin) -> None:
    job = begin(sys.executable, watched.script(TWICE), "an argument", "-x", KEPT="kept value")
    assert job.stdout is not None
    assert job.stdout.readline() == b"ready\n"
    with attach(watched, job.pid, *FAST, "--on-hang", "restart") as process:
        job.wait(timeout=60)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 4, err.decode()
    assert out == b"ready\ndone\n"  # the second attempt is ours, and so is its output
    assert (watched.place / "been-here").read_text() == "kept value an argument -x\n" * 2
    assert [attempt["number"] for attempt in watched.summary()["attempts"]] == [1, 2]
    assert b"done" in (watched.directory / "output.log").read_bytes()


@pytest.mark.parametrize(("code", "outcome"), [(0, "completed"), (7, "failed")])
def test_the_status_of_a_job_that_ends_by_itself_is_learned_from_the_kernel(
    watched: Watched, begin: Begin, code: int, outcome: str
) -> None:
    probe = subprocess.Popen(["true"])
    pidfd = os.pidfd_open(probe.pid)
    probe.wait()
    is_told = read_exit_status(pidfd) is not None
    os.close(pidfd)
    if not is_told:
        pytest.skip("this kernel tells nobody but the parent how a process ended; Linux 6.15 does")
    fifo = watched.place / "go"
    os.mkfifo(fifo)
    job = begin("sh", "-c", f"read line < {fifo}; exit {code}")
    with attach(watched, job.pid, "--interval", "0.1s") as process:
        until(lambda: watched.events("attempt.started"))
        with fifo.open("w") as stream:
            stream.write("go\n")
        job.wait(timeout=30)
        process.communicate(timeout=30)
    assert process.returncode == code
    assert watched.summary()["outcome"] == outcome


def test_attach_refuses_whom_it_must_not_touch(watched: Watched, begin: Begin) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    cases = [(ended.pid, "no process"), (os.getpid(), "runs inside it")]
    if os.getuid() == 0:
        other = subprocess.Popen(["sleep", "600"], user=65534)
        cases.append((other.pid, "belongs to user 65534"))
    try:
        for pid, phrase in cases:
            with attach(watched, pid) as process:
                _, err = process.communicate(timeout=30)
            assert process.returncode == 3, phrase
            assert phrase in err.decode()
            assert err.count(b"\n") == 1
            assert not watched.directory.exists()
    finally:
        if os.getuid() == 0:
            other.kill()
            other.wait()


def test_a_job_that_has_a_supervisor_gets_no_second(watched: Watched) -> None:
    with watched.start("sleep", "600") as first:
        (pid,) = until(lambda: [event["pid"] for event in watched.events("attempt.started")])
        until((watched.directory / "run.json").exists)
        second = Watched(watched.place / "second")
        second.place.mkdir()
        with attach(second, pid) as process:
            _, err = process.communicate(timeout=30)
        assert process.returncode == 3
        assert b"has a supervisor already" in err
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=30)


@pytest.mark.parametrize("words", [[], ["x"], ["1", "2"], ["-5"]])
def test_a_wrong_command_line_of_attach_is_a_usage_error(tmp_path: Path, words: list[str]) -> None:
    done = subprocess.run([*PROGRAM, "attach", *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert done.stderr.count("\n") == 1


def test_an_order_to_stop_is_answered_lets_go_of_the_job_and_says_so(watched: Watched, begin: Begin) -> None:
    job = begin("sleep", "600")
    with attach(watched, job.pid, *FAST) as process:
        until((watched.directory / "control").exists)
        until((watched.directory / "run.json").exists)
        words = [*PROGRAM, "stop", str(watched.directory)]
        answer = subprocess.run(words, capture_output=True, text=True, check=False, env=watched.environment(), timeout=60)
        _, err = process.communicate(timeout=60)
    assert answer.returncode == 0, answer.stderr
    assert process.returncode == 143, err.decode()
    assert job.poll() is None
    assert watched.summary()["outcome"] == "interrupted"


def test_a_job_whose_supervisor_was_killed_can_be_attached_to_although_its_socket_is_still_there(
    watched: Watched, begin: Begin
) -> None:
    earlier = watched.place / "earlier"
    earlier.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(earlier / "control"))
    job = begin("sleep", "600", UNSLOTH_WATCH_RUN_DIR=str(earlier))
    with attach(watched, job.pid, *FAST) as process:
        until(lambda: watched.events("attempt.started") or process.poll() is not None)
        process.terminate()
        _, err = process.communicate(timeout=30)
    assert process.returncode == 143, err.decode()
