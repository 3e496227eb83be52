"""File systems behind waits: a real one whose program does not answer, in a private mount namespace."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from unsloth_watch.capture.capture import capture
from unsloth_watch.capture.process import read_start
from unsloth_watch.capture.syscalls import name_syscall
from unsloth_watch.capture.waits import read_tasks
from unsloth_watch.diagnose import Case, diagnose
from unsloth_watch.model.diagnosis import Status
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.model.verdict import State, Verdict
from waiting import until

SERVER = Path(__file__).resolve().parents[1] / "stalledfuse.py"
READER = """
import os, sys
print(os.getpid(), flush=True)
open(os.path.join(sys.argv[1], "weights.bin"), "rb").read(4096)
"""


@pytest.fixture
def stalled(tmp_path: Path) -> Iterator[tuple[ProcessRef, Path]]:
    """A process that reads from a file system whose server is silent."""
    mounted = tmp_path / "models"
    mounted.mkdir()
    command = [sys.executable, str(SERVER), str(mounted), sys.executable, "-c", READER, str(mounted)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        answer = server.stdout.readline().strip()
        if answer != "mounted":
            server.stdin.close()
            pytest.skip(f"FUSE cannot be mounted here ({answer}); run as root with /dev/fuse")
        pid = int(server.stdout.readline())
        # The server answers the requests before the read.
        until(
            lambda: any(
                name_syscall(task.syscall) == "read" and task.wait_channel == "request_wait_answer" for task in read_tasks(pid)
            )
        )
        start = read_start(pid)
        assert start is not None
        yield ProcessRef(pid, start), mounted
        server.stdin.close()


def test_a_silent_fuse_server_is_named_with_its_path_and_mount_and_blocks_nobody(stalled: tuple[ProcessRef, Path]):
    ref, mounted = stalled
    evidence = capture([ref], ref, at=0.0, clock=time.monotonic)
    thread = evidence.processes[0].threads[0]
    assert thread.wait_path == str(mounted / "weights.bin")
    mount = evidence.mounts[0]
    assert (mount.point, mount.type, mount.source, mount.free_bytes) == (str(mounted), "fuse.stalled", "stalled-server", None)
    assert thread.frames, "the stack is read without a pause, which would turn the wait into state D"
    assert name_syscall(read_tasks(ref.pid)[0].syscall) == "read"
    verdict = Verdict(State.HUNG, at=0.0, quiet_s=60.0, limit_s=60.0, last_progress=None, reasons=())
    diagnosis = diagnose(Case(evidence, verdict))
    assert (diagnosis.cause, diagnosis.status) == ("filesystem-stall", Status.ESTABLISHED)


def test_the_working_directory_of_a_job_is_on_a_file_system_with_free_space(start, tmp_path: Path):
    target = start('import os, time\nprint("ready", flush=True)\ntime.sleep(3600)\n').rest()
    evidence = capture([target.ref], target.ref, at=0.0, clock=time.monotonic)
    here = next(mount for mount in evidence.mounts if os.getcwd() in mount.paths)
    assert here.free_bytes is None or here.free_bytes > 0
