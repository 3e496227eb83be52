"""A full disk under the whole program: the command does not notice, and what was written before stays readable."""

from __future__ import annotations

import json
import subprocess
import sys

from namespaces import require_unshare
from watched import PROGRAM, Watched

LINES, WIDTH = 60, 8000
PRINTER = f"""
import os, sys, time
while not (os.path.exists("disk/run/samples.jsonl") and os.path.getsize("disk/run/samples.jsonl")):
    time.sleep(0.01)  # what is to stay readable has to be there before the disk is full
for number in range({LINES}):
    print(f"{{number:03d}} ".ljust({WIDTH} - 1, "x"), flush=True)
    time.sleep(0.03)
sys.exit(7)
"""
# The disk lives as long as the namespace: what is on it at the end is copied out by the last who sees it.
SETTING = """
set -e
mkdir disk; mount -t tmpfs -o size=128k,mode=700 tmpfs disk
set +e
"$@"; status=$?
cp -r disk/run copy
exit $status
"""


def test_a_full_disk_never_stops_the_command_and_is_said_once_for_each_file(watched: Watched) -> None:
    job = watched.script(PRINTER)
    words = [*require_unshare("--mount"), "sh", "-c", SETTING, "sh"]
    command = [*words, *PROGRAM, "--run-dir", "disk/run", "--interval", "0.1s", "-v", "--", sys.executable, job]
    result = subprocess.run(command, cwd=watched.place, env=watched.environment(), capture_output=True, timeout=100, check=False)
    assert result.returncode == 7
    assert len(result.stdout) == LINES * WIDTH
    said = [line for line in result.stderr.decode().splitlines() if "No space left on device" in line]
    assert said, result.stderr.decode()
    assert len(said) == len(set(said)), "each fault is said once"
    assert any("output.log" in line for line in said)
    copy = watched.place / "copy"
    json.loads((copy / "run.json").read_text())
    for name in ("events.jsonl", "samples.jsonl"):
        whole, end, _torn = (copy / name).read_bytes().rpartition(b"\n")
        assert end, name
        for line in whole.splitlines():
            json.loads(line)
    kept = (copy / "output.log").read_bytes()
    assert kept == result.stdout[: len(kept)]
    assert 0 < len(kept) < 128 * 1024
