"""Disks and readers that fail under a whole run: the command does not notice, its output is whole, and the fault is said."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from faults.faulted import FAST, Faulted
from namespaces import require_unshare
from waiting import until
from watched import PROGRAM, Watched

# Prints a line whenever somebody writes to the FIFO, and ends with status 7 when that is closed.
ECHO = """
import sys
print("ready", flush=True)
for number, line in enumerate(open("go")):
    print("line", number, line, end="", flush=True)
sys.exit(7)
"""
HANG = """
import os, threading
print("ready", flush=True)
os.read(os.open("go", os.O_RDONLY), 1)
lock = threading.Lock()
lock.acquire()
lock.acquire()
"""


def test_a_run_whose_directory_is_deleted_goes_on_and_its_hang_is_reported_all_the_same(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    run = Faulted(tmp_path, HANG, options=(*FAST, "--on-hang", "stop"))
    try:
        run.await_line(b"ready\n")
        until((run.directory / "samples.jsonl").exists)
        shutil.rmtree(run.directory)
        (tmp_path / "go").write_bytes(b"!")
        assert run.end() == 124, run.said
    finally:
        run.close()
    assert "hang after" in run.said
    report = run.directory / "incidents" / "01" / "report.md"
    assert report.stat().st_size > 0
    for folder in (run.directory, report.parent.parent, report.parent):
        assert folder.stat().st_mode & 0o777 == 0o700, folder
    assert [event["event"] for event in run.watched.events()][-1] == "run.finished", "what waited was written when it was back"


def test_a_disk_that_becomes_read_only_costs_the_command_nothing(watched: Watched) -> None:
    words = [*require_unshare("--mount"), "sh", "-c", 'mkdir disk; mount -t tmpfs -o mode=700 tmpfs disk; exec "$@"', "sh"]
    code = """
    import os, subprocess, sys, time
    while not os.path.exists("disk/run/run.json"):
        time.sleep(0.01)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", "disk/run"], check=True)
    for number in range(500):
        print("line", number, flush=True)
    sys.exit(7)
    """
    command = [*words, *PROGRAM, "--run-dir", "disk/run", *FAST, "-v", "--", sys.executable, watched.script(code)]
    result = subprocess.run(command, cwd=watched.place, env=watched.environment(), capture_output=True, timeout=60, check=False)
    assert result.returncode == 7, result.stderr
    assert result.stdout == b"".join(b"line %d\n" % number for number in range(500))
    said = [line for line in result.stderr.decode().splitlines() if "Read-only file system" in line]
    assert any("events.jsonl" in line for line in said)
    assert any("run.json" in line for line in said)
    assert len(said) == len(set(said)), "each fault is said once"


def test_a_home_that_cannot_be_written_is_said_and_the_records_go_elsewhere(watched: Watched) -> None:
    (watched.place / "tmp").mkdir()
    environment = watched.environment(XDG_STATE_HOME="/proc/nowhere", TMPDIR=str(watched.place / "tmp"))
    command = [*PROGRAM, "--", sys.executable, "-c", "print('done'); raise SystemExit(7)"]
    result = subprocess.run(command, cwd=watched.place, env=environment, capture_output=True, timeout=60, check=False)
    assert result.returncode == 7
    assert result.stdout == b"done\n"
    assert b"cannot make the run directory /proc/nowhere" in result.stderr
    assert list((watched.place / "tmp").glob("unsloth-watch-*/runs/*/run.json"))


@pytest.mark.parametrize("capture", ["pipe", "inherit"])
@pytest.mark.parametrize("is_open", [True, False], ids=["nobody empties", "nobody holds"])
def test_what_becomes_of_our_words_when_the_reader_of_stderr_fails(watched: Watched, capture: str, is_open: bool) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    if is_open:
        while select.select([], [writer], [], 0)[1]:
            os.write(writer, b"x" * 4096)
    else:
        os.close(reader)
    os.set_blocking(writer, True)
    code = "import time\nfor n in range(20): print('line', n, flush=True)\nraise SystemExit(7)"
    words = [
        *PROGRAM,
        "--run-dir",
        str(watched.directory),
        *FAST,
        "--capture",
        capture,
        "-v",
        "--",
        sys.executable,
        watched.script(code),
    ]
    process = subprocess.Popen(words, cwd=watched.place, env=watched.environment(), stdout=subprocess.PIPE, stderr=writer)
    os.close(writer)
    try:
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
        if is_open:
            os.close(reader)
    assert process.returncode == 7
    assert out == b"".join(b"line %d\n" % n for n in range(20))
    assert watched.events("run.finished")[0]["exit_code"] == 7


def test_a_reader_of_the_events_that_goes_away_disturbs_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    run = Faulted(tmp_path, ECHO)
    try:
        run.await_line(b"ready\n")
        until((run.directory / "events.jsonl").exists)
        reader = subprocess.Popen(["tail", "-n", "+1", "-f", str(run.directory / "events.jsonl")], stdout=subprocess.PIPE)
        assert reader.stdout is not None
        assert b"run.started" in reader.stdout.readline()
        with (tmp_path / "go").open("w") as go:
            reader.kill()
            reader.communicate()
            go.write("a\nb\n")
        assert run.end() == 7
    finally:
        run.close()


def test_a_full_log_disk_costs_a_slow_reader_of_a_flood_nothing(watched: Watched) -> None:
    words = [*require_unshare("--mount"), "sh", "-c", 'mkdir disk; mount -t tmpfs -o size=96k,mode=700 tmpfs disk; exec "$@"', "sh"]
    size = 256 * 60_000
    code = f"import os\nleft = memoryview(bytes(range(256)) * {size // 256})\nwhile left: left = left[os.write(1, left[:65536]):]"
    command = [*words, *PROGRAM, "--run-dir", "disk/run", *FAST, "--", sys.executable, watched.script(code)]
    process = subprocess.Popen(
        command, cwd=watched.place, env=watched.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    whole = bytes(range(256)) * 17
    place = 0
    try:
        while part := os.read(process.stdout.fileno(), 4096):  # so small that the writer is faster
            assert part == whole[place % 256 :][: len(part)], f"output is missing or damaged at byte {place}"
            place += len(part)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert place == size
