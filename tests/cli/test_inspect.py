"""``inspect`` on real processes that nobody supervises."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from otheruser import require_other_user
from watched import PROGRAM


@contextmanager
def running(program: str) -> Iterator[int]:
    """A Python program that has said it is ready."""
    command = [sys.executable, "-u", "-c", f"print('ready')\n{program}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


def inspect(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, "inspect", *words], capture_output=True, text=True, check=False)


def test_a_stopped_process_is_hung_and_stays_as_it_was() -> None:
    with running("import time; time.sleep(600)") as pid:
        os.kill(pid, signal.SIGSTOP)
        result = inspect(str(pid), "--json", "--seconds", "1")
        assert psutil.Process(pid).status() == psutil.STATUS_STOPPED
    answer = json.loads(result.stdout)
    assert (result.returncode, answer["answer"], answer["diagnosis"]["cause"]) == (1, "hung", "process-stopped")


def test_a_process_that_computes_in_many_places_progresses() -> None:
    program = "import random\ndef a(n): return sum(range(n))\ndef b(n): return a(n) + sorted(range(n))[0]\nwhile True: random.choice((a, b))(20000)"
    with running(program) as pid:
        result = inspect(str(pid))
    assert result.returncode == 0
    assert f"PID {pid} is progressing" in result.stdout


def test_a_process_that_waits_for_nothing_known_is_undecided_and_shows_its_stack() -> None:
    with running("import time\ndef wait_for_it(): time.sleep(600)\nwait_for_it()") as pid:
        result = inspect(str(pid), "--seconds", "1")
    assert result.returncode == 2
    assert "wait_for_it" in result.stdout


@pytest.mark.parametrize(
    ("word", "status", "phrase"), [("4194304", 3, "no process"), ("x", 64, "not a process id"), ("0", 64, "not a process id")]
)
def test_what_cannot_be_looked_at_is_said(word: str, status: int, phrase: str) -> None:
    result = inspect(word)
    assert result.returncode == status
    assert phrase in result.stderr


def test_a_healthy_job_is_told_with_its_busiest_process_and_frame() -> None:
    program = "import random\ndef step(n): return sum(range(n))\ndef rest(n): return step(n) + 1\nwhile True: random.choice((step, rest))(20000)"
    with running(program) as pid:
        result = inspect(str(pid), "--json")
    answer = json.loads(result.stdout)
    assert f"PID {pid} used" in answer["doing"]
    assert "most often in" in answer["doing"]
    assert answer["allow"] is None


def test_a_wait_for_the_network_is_undecided_and_names_the_peer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program = f"import socket\nclient = socket.create_connection(('127.0.0.1', {port}))\ndef fetch(): client.recv(1)\nfetch()"
        with running(program) as pid:
            result = inspect(str(pid), "--seconds", "1")
    assert result.returncode == 2
    assert "it may be network-stall" in result.stdout
    assert f"127.0.0.1:{port}" in result.stdout


def test_a_filter_whose_pipe_somebody_else_holds_open_is_undecided_and_not_blamed_for_waiting() -> None:
    with running("import sys\nsys.stdin.read()") as pid:
        result = inspect(str(pid))
    assert result.returncode == 2
    assert "it may only be waiting for somebody else" in result.stdout


def test_a_worker_that_waits_for_its_parent_is_undecided_where_the_worker_alone_is_looked_at() -> None:
    program = """
import multiprocessing, sys
def work(orders): orders.wait()
orders = multiprocessing.get_context("fork").Event()
worker = multiprocessing.get_context("fork").Process(target=work, args=(orders,))
worker.start()
print(worker.pid)
sys.stdin.read(1)
orders.set()
worker.join()
"""
    command = [sys.executable, "-u", "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = parent.stdout.readline().strip()
        result = inspect(worker)
        parent.communicate("x")
    assert result.returncode == 2
    assert f"PID {parent.pid}, which is not of the job" in result.stdout


def test_another_users_process_is_told_as_far_as_it_may_be_and_how_to_see_the_rest() -> None:
    become = require_other_user()
    with running("import time; time.sleep(600)") as pid:
        command = [*become, *PROGRAM, "inspect", str(pid), "--seconds", "1"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert f"system calls of PID {pid}: not readable" in result.stdout
    assert f"stack of PID {pid}: no permission" in result.stdout
    assert "to allow it: " in result.stdout
    assert "CAP_SYS_PTRACE" in result.stdout
