"""How crowded this machine is."""

from __future__ import annotations

import subprocess
import sys

from unsloth_watch.sense.contention import read_cpu_share
from waiting import until


def test_a_machine_with_cores_to_spare_gives_a_whole_one() -> None:
    assert read_cpu_share(cores=100_000) == 1.0


def test_threads_that_want_to_run_share_the_cores() -> None:
    spin = "print('ready', flush=True)\nwhile True: pass"
    spinners = [subprocess.Popen([sys.executable, "-S", "-c", spin], stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for one in spinners:
            assert one.stdout is not None
            assert one.stdout.readline() == b"ready\n"
        share = until(lambda: (share := read_cpu_share(cores=1)) is not None and share < 0.6 and share)
        assert 0 < share < 0.6
    finally:
        for one in spinners:
            one.kill()
            one.communicate()
