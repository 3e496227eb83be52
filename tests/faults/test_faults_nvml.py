"""An NVML that never answers or answers nonsense, under a whole run: the job is watched all the same, and nobody waits for it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from faults.faulted import FAST
from namespaces import require_unshare
from watched import PROGRAM, Watched

# A device node where there is none, for this run alone.
DEV = """
set -e
mkdir dev; mount -t tmpfs -o mode=755 tmpfs dev; mkdir dev/shm
for name in null zero full random urandom tty; do touch dev/$name; mount --bind /dev/$name dev/$name; done
touch dev/nvidiactl; ln -s /proc/self/fd dev/fd; mount --rbind dev /dev
exec "$@"
"""
BLOCKED = "#include <unistd.h>\nint nvmlInitWithFlags(unsigned flags) { for (;;) pause(); }"
COUNT = "int nvmlDeviceGetCount_v2(unsigned *n) { "
LIBRARIES = {
    "blocked at once": (BLOCKED, "the GPU driver is blocked"),
    "blocked later": (
        "#include <unistd.h>\nint nvmlInitWithFlags(unsigned flags) { return 0; }\n" + COUNT + "for (;;) pause(); }",
        "the GPU driver is blocked",
    ),
    "a status that does not exist": ("int nvmlInitWithFlags(unsigned flags) { return 12345; }", "12345"),
    "four billion devices": (
        "int nvmlInitWithFlags(unsigned flags) { return 0; }\n"
        + COUNT
        + "*n = 4000000000u; return 0; }\nint nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) { return 2; }",
        "Invalid Argument",
    ),
    "no function at all": ("int unrelated(void) { return 0; }", "Function Not Found"),
}
"""A library, and what is said of it."""


def run_with(watched: Watched, source: str, code: str) -> subprocess.CompletedProcess[bytes]:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("a library in NVML's place needs a C compiler; apt-get install gcc")
    (watched.place / "nvml.c").write_text(source)
    library = watched.place / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, watched.place / "nvml.c"], check=True)
    words = [*require_unshare("--mount"), "sh", "-c", DEV, "sh", *PROGRAM, "--run-dir", str(watched.directory), *FAST]
    words += ["--on-hang", "stop", "--", sys.executable, watched.script(code)]
    environment = watched.environment(LD_LIBRARY_PATH=str(watched.place))
    return subprocess.run(words, cwd=watched.place, env=environment, capture_output=True, timeout=60, check=False)


def test_a_healthy_job_goes_on_while_nvml_fails_and_the_fault_is_said(tmp_path: Path) -> None:
    steps = """
    import os, time
    events = os.environ["UNSLOTH_WATCH_RUN_DIR"] + "/events.jsonl"
    step = 0
    while step < 300 and not (os.path.exists(events) and '"gpu"' in open(events).read()):
        print(f"step {step}/300", flush=True)
        time.sleep(0.1)
        step += 1
    raise SystemExit(7)
    """
    places = {fault: Watched(tmp_path / fault.replace(" ", "-")) for fault in LIBRARIES}
    for watched in places.values():
        watched.place.mkdir()
    with ThreadPoolExecutor(len(LIBRARIES)) as pool:
        results = pool.map(lambda fault: run_with(places[fault], LIBRARIES[fault][0], steps), LIBRARIES)
    for (fault, (_, phrase)), result in zip(LIBRARIES.items(), results, strict=True):
        assert result.returncode == 7, (fault, result.stderr)
        told = [event for event in places[fault].events("sensor.degraded") if event["sensor"] == "gpu"]
        assert phrase in str(told[0]["why"]), fault
        assert not places[fault].events("hang.detected"), fault


def test_a_hang_is_found_while_nvml_is_blocked(watched: Watched) -> None:
    result = run_with(watched, BLOCKED, "import time\nprint('ready', flush=True)\ntime.sleep(600)")
    assert result.returncode == 124, result.stderr
