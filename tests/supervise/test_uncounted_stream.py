"""A job that takes data which nobody counts, in silence, is not ended for it, and what can be done about that is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from waiting import until
from watched import Watched

STALL_S = 12
TAKE = """
import os, socket, time
here, there = socket.socketpair()
child = os.fork()
if child == 0:
    here.close()
    while not os.path.exists("go"):
        there.sendall(bytes(1000))
        time.sleep(0.01)
    os._exit(0)
there.close()
while here.recv(65536):
    pass
os.waitpid(child, 0)
"""


def test_a_stream_over_a_socketpair_outlives_the_stall_timeout_and_the_doubt_says_why(watched: Watched, tmp_path: Path) -> None:
    options = (
        "--stall-timeout",
        f"{STALL_S}s",
        "--busy-timeout",
        "1h",
        "--interval",
        "0.2s",
        "--cache",
        "keep",
        "--on-hang",
        "report",
    )
    process = watched.start(sys.executable, watched.script(TAKE), options=options, stdin=subprocess.PIPE)
    try:
        told = until(lambda: [one for one in watched.events("stall.suspected") if one["quiet_s"] >= STALL_S], seconds=120)
        assert any("through a UNIX socket" in reason and "X_STEP" in reason for reason in told[0]["evidence"])
        (tmp_path / "go").touch()
        process.communicate(b"\n", timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert not watched.events("hang.detected")
