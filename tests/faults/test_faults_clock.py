"""Clocks that jump: wall time is for people alone, and the machine's uptime may be anything."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from faults.faulted import FAST, Faulted
from namespaces import require_unshare
from watched import PROGRAM, Watched

# Every second look at the wall clock shows a year later, the others a year before: both jumps, again and again, for our process alone.
SHIM = r"""
#define _GNU_SOURCE
#include <time.h>
#include <sys/syscall.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *found) {
    static unsigned calls;
    int status = syscall(SYS_clock_gettime, clock, found);
    if (clock == CLOCK_REALTIME) found->tv_sec += calls++ % 2 ? 31536000 : -31536000;
    return status;
}
"""
CLOCKS = {"--monotonic": time.CLOCK_MONOTONIC, "--boottime": time.CLOCK_BOOTTIME}
STEPS = """
import time
for step in range(40):
    print(f"step {step}/40", flush=True)
    time.sleep(0.1)
raise SystemExit(7)
"""


@pytest.fixture
def shim(tmp_path: Path) -> str:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("a jumping clock for one process needs a C compiler; apt-get install gcc")
    (tmp_path / "clock.c").write_text(SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", tmp_path / "clock.so", tmp_path / "clock.c"], check=True)
    return str(tmp_path / "clock.so")


def test_a_wall_clock_that_jumps_by_years_ends_nobody_and_hides_no_hang(tmp_path: Path, shim: str) -> None:
    healthy = Faulted(tmp_path / "healthy", STEPS, environment={"LD_PRELOAD": shim})
    hung = Faulted(tmp_path / "hung", options=FAST, environment={"LD_PRELOAD": shim})
    try:
        assert healthy.end() == 7, healthy.said
        assert hung.end() == 4, hung.said
    finally:
        healthy.close()
        hung.close()
    assert not healthy.events("hang.detected")
    years = {str(event["timestamp"])[:4] for event in healthy.watched.events()}
    assert len(years) == 2, "the clock did jump"
    (found,) = hung.events("hang.detected")
    quiet = found["quiet_s"]
    assert isinstance(quiet, float)
    assert 0 < quiet < 60


@pytest.mark.parametrize("uptime", [3, 40_000_000], ids=["just booted", "up for over a year"])
def test_the_uptime_of_the_machine_may_be_anything(watched: Watched, uptime: int) -> None:
    offsets = {name: str(uptime - int(time.clock_gettime(clock))) for name, clock in CLOCKS.items()}
    words = [*require_unshare("--time", "--mount"), "--fork", *(word for pair in offsets.items() for word in pair)]
    command = [*words, *PROGRAM, "--run-dir", str(watched.directory), *FAST, "--on-hang", "stop", "--"]
    result = subprocess.run(
        [*command, sys.executable, watched.script("import time\nprint('ready', flush=True)\ntime.sleep(600)")],
        cwd=watched.place, env=watched.environment(), capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 124, result.stderr
    found = watched.events("hang.detected")[0]
    assert 0 < found["quiet_s"] < 60
    with (watched.directory / "samples.jsonl").open() as lines:
        assert uptime - 1 <= json.loads(lines.readline())["at"] < uptime + 60
