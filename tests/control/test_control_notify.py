"""What the command reports is taken in whatever the supervisor is busy with: a full queue would hold the command up."""

from __future__ import annotations

import subprocess
import sys

from waiting import until
from watched import PROGRAM, Watched

# Sends as sd_notify does: the kernel lets ten datagrams wait where nobody has raised net.unix.max_dgram_qlen (512 under systemd).
REPORTS = """
    import os, socket, sys
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    channel.connect(os.environ["NOTIFY_SOCKET"])
    print("ready", flush=True)
    sys.stdin.readline()
    for step in range(600):
        channel.send(b"X_STEP=%d" % step)
    print("done", flush=True)
"""


def test_a_command_that_reports_its_steps_is_not_held_up_while_it_is_not_judged(watched: Watched) -> None:
    options = ("--interval", "5s", "--stdin", "inherit")
    with watched.start(sys.executable, watched.script(REPORTS), options=options, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"ready\n"
        until((watched.directory / "control").exists)
        words = [*PROGRAM, "pause", str(watched.directory)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=watched.environment(), timeout=60)
        out, err = process.communicate(b"\n", timeout=60)
    assert process.returncode == 0, err.decode()
    assert out == b"done\n"
