"""The permission to read stacks is checked beside the running command, and a problem is said then."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from namespaces import require_unshare
from unsloth_watch.capture.pyspy import find_binary
from waiting import until
from watched import PROGRAM, Watched

WAIT = "import sys; sys.stdin.read()"


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_a_machine_that_lets_us_read_stacks_hears_nothing_of_it(watched: Watched):
    status, _, err = watched.run(sys.executable, "-c", "import time; time.sleep(2)", options=("--interval", "200ms"))
    assert status == 0
    assert not [event for event in watched.events("sensor.degraded") if event["sensor"] == "stacks"]
    assert b"stacks" not in err


def test_missing_stacks_are_said_while_the_command_runs_and_do_not_disturb_it(watched: Watched):
    """py-spy is covered by an empty file in a private mount namespace: as where it was never installed."""
    binary = find_binary()
    assert binary is not None
    unshare = require_unshare("--mount")
    command = [*PROGRAM, "--run-dir", str(watched.directory), "--interval", "200ms", "--", sys.executable, "-c", WAIT]
    script = f"mount --bind /dev/null {shlex.quote(binary)} && exec {shlex.join(command)}"
    with subprocess.Popen(
        [*unshare, "sh", "-c", script],
        cwd=watched.place,
        env=watched.environment(PATH="/usr/bin:/bin:/usr/sbin:/sbin"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        said = until(lambda: [event for event in watched.events("sensor.degraded") if event["sensor"] == "stacks"], seconds=30)
        _, err = process.communicate(b"", timeout=60)
    assert process.returncode == 0
    assert len(said) == 1
    assert "py-spy" in said[0]["why"]
    assert b"py-spy" in err
