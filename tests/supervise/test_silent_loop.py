"""A loop that computes in silence: nobody is ended for it, and the doubt is told as early as that about anybody else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from waiting import until
from watched import Watched

STALL_S = 4
SPIN = """
import os
while not os.path.exists("go"):
    sum(range(10_000))
print("step 1/1", flush=True)
input()
"""


def test_the_doubt_is_told_after_the_stall_timeout_and_ends_with_the_next_step(watched: Watched, tmp_path: Path) -> None:
    options = (
        "--stall-timeout",
        f"{STALL_S}s",
        "--busy-timeout",
        "1h",
        "--interval",
        "0.1s",
        "--cache",
        "keep",
        "--on-hang",
        "report",
    )
    process = watched.start(sys.executable, watched.script(SPIN), options=options, stdin=subprocess.PIPE)
    try:
        # Before it computed, or where the machine gave it no time, it may have been doubted for its rest, and less long.
        until(lambda: any(event["quiet_s"] >= STALL_S for event in watched.events("stall.suspected")), seconds=60)
        told = len(watched.events("stall.cleared"))
        (tmp_path / "go").touch()
        until(lambda: len(watched.events("stall.cleared")) > told, seconds=60)
        process.communicate(b"\n", timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert not watched.events("attempt.terminating")
