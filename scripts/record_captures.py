#!/usr/bin/env python3
"""Records the captures that the rules are tested with: real programs that really wait, seen by the real capture.

``python scripts/record_captures.py [NAME]...`` writes ``tests/data/captures/NAME.json``; without names, all of them, in 80 seconds.
Run it with the project's own interpreter. Paths of this machine are replaced by neutral ones.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT / "scripts"))

import environments  # noqa: E402 - found by the line above
from unsloth_watch.capture.caches import probe_caches  # noqa: E402
from unsloth_watch.capture.capture import capture, look  # noqa: E402
from unsloth_watch.capture.process import read_start  # noqa: E402
from unsloth_watch.capture.versions import read_versions  # noqa: E402
from unsloth_watch.model.evidence import Evidence  # noqa: E402
from unsloth_watch.model.process import ProcessRef  # noqa: E402
from unsloth_watch.model.sample import Look  # noqa: E402

CAPTURES = PROJECT / "tests" / "data" / "captures"
LOOKS = 6

STAND_IN = """
import os, sys
os.environ["UNSLOTH_IS_PRESENT"] = os.environ["UNSLOTH_ALLOW_CPU"] = "1"
os.environ["PATH"] = os.path.join(sys.prefix, "bin") + os.pathsep + os.environ.get("PATH", "")
import torch
torch.cuda.get_device_capability = lambda *_: (8, 0)
from unsloth_zoo.compiler import create_new_function
"""

HEALTHY = (
    STAND_IN
    + """
print("ready", flush=True)
number = 0
while True:  # one healthy import after the other: a look falls into create_new_function and nothing is wrong
    number += 1
    create_new_function(f"tiny_{number % 50}", "def tiny(x):\\n    return x\\n", "torch.nn", [])
"""
)
MODERN = STAND_IN + 'print("ready", flush=True)\ncreate_new_function("tiny", "def tiny(x):\\n    return x\\n", "torch.nn", [])\n'
BATON = """
import os
from torch.utils.file_baton import FileBaton
print("ready", flush=True)
FileBaton(os.path.join(os.environ["TORCH_EXTENSIONS_DIR"], "py311_cpu", "fused", "lock")).wait()
"""
FLOCK = 'import fcntl\nfile = open("shared.lock", "w")\nprint("ready", flush=True)\nfcntl.flock(file, fcntl.LOCK_EX)\n'
SPIN = 'print("ready", flush=True)\ndef spin():\n    x = 0\n    while True:\n        x = (x + 1) % 7\nspin()\n'
ASK = 'print("ready", flush=True)\nanswer = input("Overwrite the checkpoint? [y/N] ")\n'
SLEEP = 'import time\nprint("ready", flush=True)\ntime.sleep(3600)\n'


class Recorded(msgspec.Struct, frozen=True):
    """A capture and the looks before it."""

    name: str
    evidence: Evidence
    looks: tuple[Look, ...] = ()


class Stage:
    """A directory with a program that runs in it.

    Args:
        place: The directory.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "scripts").mkdir()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, python: Path | str, text: str | None, wait_for: bytes = b"ready", **environment: str) -> None:
        """Start a program as ``scripts/train.py`` and wait for its word; None is the founding example."""
        script = self.place / "scripts" / "train.py"
        if text is None:
            shutil.copy(PROJECT / "examples" / "founding" / "scripts" / "train.py", script)
        else:
            script.write_text(text)
        clean = {"PATH": "/usr/bin:/bin", "HOME": str(self.place), "PYTHONDONTWRITEBYTECODE": "1", **environment}
        self.process = subprocess.Popen(
            [str(python), "scripts/train.py"],
            cwd=self.place,
            env=clean,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if wait_for in line:
                return
        raise SystemExit(f"{python} ended before it said {wait_for!r}")

    def see(self, name: str, is_good: Callable[[Evidence], bool] = lambda _: True) -> Recorded:
        """Capture the program; several times where the first captures miss what is wanted."""
        assert self.process is not None
        start = read_start(self.process.pid)
        assert start is not None
        ref = ProcessRef(self.process.pid, start)
        for _ in range(60):
            looks = []
            for _ in range(LOOKS):
                time.sleep(0.2)
                looks.append(look(ref))
            evidence = capture([ref], ref, at=0.0, clock=lambda: 0.0, probes=(probe_caches, read_versions))
            if is_good(evidence):
                return Recorded(name, evidence, tuple(item for item in looks if item is not None))
        raise SystemExit(f"{name}: no capture shows what is wanted")

    def close(self) -> None:
        """End the program."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()


def _python(name: str) -> Path:
    return environments.python_of(name)


def _founding(stage: Stage) -> Recorded:
    stage.start(_python("founding"), None, b"preparing")
    return stage.see("founding", _is_asleep)


def _founding_shadowed(stage: Stage) -> Recorded:
    package = stage.place / "scripts" / "unsloth_compiled_cache"
    package.mkdir()
    (package / "__init__.py").touch()
    stage.start(_python("founding"), None, b"preparing", PYTHONPATH=str(stage.place))
    return stage.see("founding-shadowed", _is_asleep)


def _founding_healthy(stage: Stage) -> Recorded:
    stage.start(_python("founding"), HEALTHY, PYTHONPATH=str(stage.place))
    return stage.see(
        "founding-healthy",
        lambda evidence: any(frame.function == "create_new_function" for frame in evidence.processes[0].threads[0].frames),
    )


def _modern_lock(stage: Stage) -> Recorded:
    locks = stage.place / "unsloth_compiled_cache" / ".locks"
    locks.mkdir(parents=True)
    holder = _hold(locks / ".lock.tiny.py")
    try:
        stage.start(_python("modern"), MODERN, UNSLOTH_LOCK_TIMEOUT="-1")
        return stage.see("modern-lock", lambda evidence: "filelock" in str(evidence.processes[0].threads[0].frames))
    finally:
        holder.kill()
        holder.communicate()


def _flock(stage: Stage) -> Recorded:
    holder = _hold(stage.place / "shared.lock")
    try:
        stage.start(sys.executable, FLOCK)
        return stage.see("flock-blocked")
    finally:
        holder.kill()
        holder.communicate()


def _baton(stage: Stage) -> Recorded:
    build = stage.place / "extensions" / "py311_cpu" / "fused"
    build.mkdir(parents=True)
    (build / "lock").touch()
    stage.start(_python("base"), BATON, TORCH_EXTENSIONS_DIR=str(stage.place / "extensions"))
    return stage.see("stale-baton")


def _live_baton(stage: Stage) -> Recorded:
    build = stage.place / "extensions" / "py311_cpu" / "fused"
    build.mkdir(parents=True)
    with open(build / "lock", "w"):  # we are the builder: FileBaton keeps the file open while it builds
        stage.start(_python("base"), BATON, TORCH_EXTENSIONS_DIR=str(stage.place / "extensions"))
        return stage.see("live-baton")


def _stopped(stage: Stage) -> Recorded:
    stage.start(sys.executable, SLEEP)
    assert stage.process is not None
    stage.process.send_signal(signal.SIGSTOP)
    return stage.see("stopped", lambda evidence: evidence.processes[0].state == "T")


def _stdin(stage: Stage) -> Recorded:
    stage.start(sys.executable, ASK)
    return stage.see("stdin")


def _spin(stage: Stage) -> Recorded:
    stage.start(sys.executable, SPIN)
    return stage.see("spin", lambda evidence: evidence.processes[0].threads[0].state == "R")


def _sleep(stage: Stage) -> Recorded:
    stage.start(sys.executable, SLEEP)
    return stage.see("sleep")


STAGES: dict[str, Callable[[Stage], Recorded]] = {
    "founding": _founding,
    "founding-shadowed": _founding_shadowed,
    "founding-healthy": _founding_healthy,
    "modern-lock": _modern_lock,
    "flock-blocked": _flock,
    "stale-baton": _baton,
    "live-baton": _live_baton,
    "stopped": _stopped,
    "stdin": _stdin,
    "spin": _spin,
    "sleep": _sleep,
}


def _is_asleep(evidence: Evidence) -> bool:
    return evidence.processes[0].threads[0].call in {"clock_nanosleep", "nanosleep"}


def _hold(path: Path) -> subprocess.Popen[bytes]:
    """Start a process that holds a flock for ever."""
    code = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True)"
    holder = subprocess.Popen([sys.executable, "-c", code + "; time.sleep(3600)", str(path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    return holder


def _anonymise(text: str, place: Path) -> str:
    base = os.path.realpath(sys.base_prefix)
    for path, name in (
        (str(place), "/home/user/job"),
        (str(environments.default_root()), "/opt/envs"),
        (str(PROJECT / ".venv"), "/opt/envs/plain"),
        (str(PROJECT), "/opt/project"),
        (base, "/opt/python"),
        (tempfile.gettempdir() + "/", "/tmp/"),
    ):
        text = text.replace(path, name)
    return text


def main(names: list[str]) -> None:
    CAPTURES.mkdir(parents=True, exist_ok=True)
    for name in names or list(STAGES):
        with tempfile.TemporaryDirectory() as directory:
            place = Path(os.path.realpath(directory))
            stage = Stage(place)
            try:
                recorded = STAGES[name](stage)
            finally:
                stage.close()
            recorded = msgspec.structs.replace(
                recorded, evidence=msgspec.structs.replace(recorded.evidence, host={}, kernel_log=(), missing=())
            )
            text = msgspec.json.format(msgspec.json.encode(recorded)).decode()
            (CAPTURES / f"{name}.json").write_text(_anonymise(text, place) + "\n")
            print(f"{name}: {len(text)} bytes", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
