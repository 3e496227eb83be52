"""Floods, processes that vanish while they are read, and a fork bomb below its limit: the supervisor stays small and stays."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.faulted import FAST, Faulted
from unsloth_watch.act.guardian import children_of
from unsloth_watch.supervise.request import ask
from waiting import until

MEGABYTE = 1 << 20


def peak_memory(pid: int) -> int:
    """Return the most memory that a process has held, bytes."""
    words = Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()
    return int(words[0]) * 1024


def test_a_hundred_megabytes_without_a_newline_arrive_and_take_no_memory(tmp_path: Path) -> None:
    code = """
    import os, sys
    for _ in range(100):
        sys.stdout.buffer.write(bytes(range(97, 113)) * 65536)
    sys.stdout.flush()
    os.read(os.open("go", os.O_RDONLY), 1)
    raise SystemExit(7)
    """
    os.mkfifo(tmp_path / "go")
    run = Faulted(tmp_path, code)
    try:
        assert run.process.stdout is not None
        size, found = 0, hashlib.sha256()
        while size < 100 * MEGABYTE:
            part = os.read(run.process.stdout.fileno(), MEGABYTE)
            assert part, run.said
            size += len(part)
            found.update(part)
        until(lambda: run.events("attempt.started"))
        peak = peak_memory(run.process.pid)
        (tmp_path / "go").write_bytes(b"!")
        assert run.end() == 7
    finally:
        run.close()
    assert size == 100 * MEGABYTE
    assert found.digest() == hashlib.sha256(bytes(range(97, 113)) * 65536 * 100).digest()
    assert peak < 80 * MEGABYTE, f"{peak / MEGABYTE:.0f} MB"


def test_thousands_of_lines_of_bars_and_losses_are_relayed_whole(tmp_path: Path) -> None:
    code = """
    import sys
    for number in range(30_000):
        print(f"{{'loss': {1 / (number + 1):.6f}, 'step': {number}}}", file=(sys.stdout, sys.stderr)[number % 7 == 0])
    raise SystemExit(7)
    """
    run = Faulted(tmp_path, code)
    try:
        out, _ = run.process.communicate(timeout=60)
    finally:
        run.close()
    assert run.process.returncode == 7
    expected = [f"{{'loss': {1 / (n + 1):.6f}, 'step': {n}}}" for n in range(30_000)]
    assert out.decode().splitlines() == [line for n, line in enumerate(expected) if n % 7]
    assert [line for line in run.said.splitlines() if line.startswith("{")] == expected[::7]


def test_processes_that_vanish_between_two_reads_are_no_fault(tmp_path: Path) -> None:
    # Four breeders: children that live for less than a look at them takes, and some whose threads end before they do.
    code = """
    import os, threading, time
    print("ready", flush=True)
    for _ in range(3):
        if os.fork() == 0:
            break
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        if os.fork() == 0:
            threading.Thread(target=int).start()
            os._exit(0)
        os.wait()
    """
    run = Faulted(tmp_path, code, options=("--interval", "0.1s", "--stall-timeout", "20s", "-v"))
    try:
        run.await_line(b"ready\n")
        assert run.end() == 0, run.said
    finally:
        run.close()
    assert not run.events("sensor.degraded"), run.said
    assert not run.events("hang.detected")


@pytest.fixture
def crowded() -> Iterator[Path]:
    """A control group in which 60 processes and threads may live."""
    group = make_pids_group()
    if group is None:
        pytest.skip("no pids controller that may be written; run as root with one mounted (cgroup v1 pids, or v2 with +pids)")
    (group / "pids.max").write_text("60")
    yield group
    until(lambda: not (group / "cgroup.procs").read_text(), seconds=30)
    group.rmdir()


def make_pids_group() -> Path | None:
    """Return a new control group with a limit of processes, None where none can be had."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        if kind == "cgroup2" or (kind == "cgroup" and "pids" in options.split(",")):
            group = Path(place) / f"unsloth-watch-faults-{os.getpid()}"
            try:
                group.mkdir()
            except OSError:
                continue
            if (group / "pids.max").exists():
                return group
            group.rmdir()
    return None


# Forks until it may not, and goes on trying; where a word says so, only when the supervisor has looked at it once.
BOMB = """
import os, sys, time
while "late" in sys.argv and not os.path.exists(os.environ["UNSLOTH_WATCH_RUN_DIR"] + "/samples.jsonl"):
    time.sleep(0.01)
while True:
    try:
        if os.fork() == 0:
            time.sleep(600)
    except OSError:
        time.sleep(0.01)
"""


def explode(place: Path, group: Path, *words: str) -> Faulted:
    """Start the bomb and its supervisor in a control group."""
    join = f"open('{group / 'cgroup.procs'}', 'w').write('0'); import os, sys; "
    join += "os.execv(sys.executable, [sys.executable, '-m', 'unsloth_watch', *sys.argv[1:]])"
    return Faulted(place, BOMB, *words, options=(*FAST, "-v"), program=[sys.executable, "-c", join])


def test_a_fork_bomb_in_a_watched_job_is_survived_and_watched_and_ends_when_asked_to(tmp_path: Path, crowded: Path) -> None:
    run = explode(tmp_path, crowded, "late")
    try:
        until(lambda: (crowded / "pids.current").read_text() == "60\n", seconds=30)
        samples = run.directory / "samples.jsonl"
        seen = samples.read_bytes().count(b"\n")
        until(lambda: samples.read_bytes().count(b"\n") > seen + 10, seconds=30)
        assert ask(str(run.directory), "show")["ok"]
        run.process.terminate()
        assert run.end() == -signal.SIGTERM, run.said
    finally:
        run.close()
    assert run.events("run.finished")[0]["outcome"] == "interrupted"


def test_a_fork_bomb_that_is_faster_than_the_supervisor_is_ended_and_the_reason_said(tmp_path: Path, crowded: Path) -> None:
    run = explode(tmp_path, crowded)
    try:
        until(lambda: run.process.poll() is not None or (run.directory / "run.json").exists(), seconds=30)
        run.process.terminate()  # where it was quick enough after all, on an idle machine
        status = run.end()
    finally:
        run.close()
    assert status in (125, -signal.SIGTERM)
    if status == 125:
        assert "no thread can be started" in run.said
        assert "Traceback" not in run.said


def test_a_bomb_whose_children_are_deaf_dies_with_the_supervisor(tmp_path: Path) -> None:
    code = """
    import os, signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for _ in range(100):
        if os.fork() == 0:
            os.setsid()
            time.sleep(600)
    print("ready", flush=True)
    time.sleep(600)
    """
    run = Faulted(tmp_path, code)
    try:
        run.await_line(b"ready\n")
        assert len(children_of(run.guardian)) == 1
        os.kill(run.process.pid, signal.SIGKILL)
        run.end()
    finally:
        run.close()
