#!/usr/bin/env python3
"""Records the captures that the rules are tested with: real programs that really wait, seen by the real capture.

``python scripts/record_captures.py [NAME]...`` writes ``tests/data/captures/NAME.json``; without names, all of them, in 12 minutes.
Names with ``zoo-`` are programs of ``tests/zoo``; their captures are reduced to what rules look at, so that the files stay small.
Run it with the project's own interpreter. Paths of this machine are replaced by neutral ones.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT / "scripts"))

import environments  # noqa: E402 - found by the line above
from unsloth_watch.capture.caches import probe_caches  # noqa: E402
from unsloth_watch.capture.capture import capture, look  # noqa: E402
from unsloth_watch.capture.process import read_start  # noqa: E402
from unsloth_watch.capture.versions import read_versions  # noqa: E402
from unsloth_watch.diagnose import Case  # noqa: E402
from unsloth_watch.model.evidence import Evidence, Frame, ProcessEvidence, ThreadEvidence  # noqa: E402
from unsloth_watch.model.process import ProcessRef  # noqa: E402
from unsloth_watch.model.sample import Look, Sample  # noqa: E402

CAPTURES = PROJECT / "tests" / "data" / "captures"
LOOKS = 6
SETTLE_S = 3.0
"""Seconds after a zoo program's own word: by then its tree stands, with torch too."""
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
ZOO = (
    "hang_abba", "hang_async_process", "hang_async_thread", "hang_asyncio_future", "hang_asyncio_locks", "hang_barrier",
    "hang_condition", "hang_dataloader_fork_openmp", "hang_dataloader_worker_stuck", "hang_datasets_map_fork", "hang_event",
    "hang_executor_nested", "hang_executor_worker_stopped", "hang_exit_atexit", "hang_exit_executor", "hang_exit_thread",
    "hang_fifo", "hang_flock_inside", "hang_fork_handler_lock", "hang_fork_lock", "hang_gil_mutex", "hang_gloo_mismatch",
    "hang_accelerate_node_missing", "hang_accelerate_wait", "hang_torchrun_node_missing", "hang_gloo_rank_missing",
    "hang_gloo_rank_stuck", "hang_gloo_world_size", "hang_sqlite_inside", "hang_sqlite_self", "hang_store_barrier",
    "hang_store_get", "hang_grandchild", "hang_import_cycle", "hang_kept_by_daemon", "hang_log_pipe", "hang_manager_lock",
    "hang_manager_queue", "hang_mp_barrier", "hang_mp_lock_killed", "hang_native_mutex", "hang_native_mutex_gil",
    "hang_os_fork", "hang_pipe_stderr", "hang_pipe_stdin", "hang_pipe_stdout", "hang_pool_worker_killed",
    "hang_queue_dead_process", "hang_queue_dead_thread", "hang_queue_feeder", "hang_queue_full", "hang_rank_exit",
    "hang_rlock_future", "hang_self_lock", "hang_semaphore", "hang_signal_handler", "hang_sigwait", "hang_socket_inside",
    "hang_three_locks", "hang_torch_queue_worker_killed", "hang_two_flocks", "hang_child_server", "hang_http_callback",
    "hang_join_timeout", "hang_mp_lock_parent", "hang_queue_timeout", "hang_step_back", "hang_thread_polls",
)  # fmt: skip

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
FUSE = """
import os, sys
print(os.getpid(), flush=True)
def load_weights(path):
    with open(path, "rb") as file:
        return file.read(1 << 20)
load_weights(os.path.join(sys.argv[1], "weights.bin"))
"""
SLEEP = 'import time\nprint("ready", flush=True)\ntime.sleep(3600)\n'


class Recorded(msgspec.Struct, frozen=True):
    """A capture and the looks before it."""

    name: str
    evidence: Evidence
    looks: tuple[Look, ...] = ()
    samples: tuple[Sample, ...] = ()


class Stage:
    """A directory with a program that runs in it.

    Args:
        place: The directory.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "scripts").mkdir()
        self.process: subprocess.Popen[bytes] | None = None
        self.pid = 0  # of a program that another process started

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

    def start_zoo(self, program: str) -> None:
        """Start a program of the zoo and wait until it hangs."""
        (self.place / "zoo").mkdir()
        path = PROJECT / "tests" / "zoo" / f"{program}.py"
        needs = "\n# needs = []\n" not in path.read_text()
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(self.place), "ZOO_DIR": str(self.place / "zoo")}
        self.process = subprocess.Popen(
            [str(environments.python_of("modern")) if needs else sys.executable, str(path)],
            cwd=self.place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self.process.stdout is not None
        if not any(b"ZOO HANG" in line for line in self.process.stdout):
            raise SystemExit(f"{program} ended before it hung")
        time.sleep(SETTLE_S)

    def see_tree(self, name: str) -> Recorded:
        """Capture the program and everything below it, reduced."""
        assert self.process is not None
        refs = [ProcessRef(pid, start) for pid in _walk(self.process.pid) if (start := read_start(pid)) is not None]
        looks = []
        for _ in range(LOOKS):
            time.sleep(0.2)
            looks.append(look(refs[0]))
        evidence = capture(refs, refs[0], at=0.0, clock=lambda: 0.0)
        processes = tuple(_reduce(process) for process in evidence.processes)
        # How many of other people's processes could not be asked is a fact of the recording machine.
        evidence = msgspec.structs.replace(evidence, processes=processes, outside=(), unseen=0)
        return Recorded(name, evidence, tuple(item for item in looks if item is not None))

    def see(self, name: str, is_good: Callable[[Evidence], bool] = lambda _: True) -> Recorded:
        """Capture the program; several times where the first captures miss what is wanted."""
        pid = self.pid if self.process is None else self.process.pid
        start = read_start(pid)
        assert start is not None
        ref = ProcessRef(pid, start)
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
        """End the program and everything below it."""
        if self.process is not None:
            for pid in list(_walk(self.process.pid)):  # all of them before the first is gone, which orphans the others
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.communicate()


def _walk(pid: int) -> Iterator[int]:
    """Yield a process and everything below it, parents first."""
    yield pid
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                yield from _walk(int(child))


def _reduce(process: ProcessEvidence) -> ProcessEvidence:
    """Return a process without its environment (but its rank), its files, and native frames outside of the innermost Python one."""
    kept = tuple(item for item in process.descriptors or () if item.target.startswith(("pipe:", "socket:", "anon_inode:", "/tmp/")))
    threads = tuple(_reduce_stack(thread) for thread in process.threads)
    ranks = {name: value for name, value in (process.environment or {}).items() if name in RANK_VARIABLES} or None
    return msgspec.structs.replace(process, environment=ranks, descriptors=kept, threads=threads, limits={}, notes=())


def _reduce_stack(thread: ThreadEvidence) -> ThreadEvidence:
    frames: list[Frame] = []
    depths: dict[int, int] = {}
    is_inner = True
    for depth, frame in enumerate(thread.frames):
        is_inner = is_inner and frame.is_native
        if is_inner or not frame.is_native:
            depths[depth] = len(frames)
            frames.append(frame)
    lines = tuple(msgspec.structs.replace(line, depth=depths[line.depth]) for line in thread.lines)
    loops = tuple(msgspec.structs.replace(loop, depth=depths[loop.depth]) for loop in thread.loops)
    return msgspec.structs.replace(thread, frames=tuple(frames), lines=lines, loops=loops)


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


def _fuse(stage: Stage) -> Recorded:
    """A read from a file system whose program does not answer, in a private mount namespace; needs root and /dev/fuse."""
    mounted = stage.place / "models"
    mounted.mkdir()
    reader = stage.place / "scripts" / "train.py"
    reader.write_text(FUSE)
    command = [sys.executable, str(PROJECT / "tests" / "stalledfuse.py"), str(mounted), sys.executable, str(reader), str(mounted)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        if server.stdout.readline() != "mounted\n":
            raise SystemExit("no FUSE here")
        stage.pid = int(server.stdout.readline())
        try:
            return stage.see("fuse-stalled", lambda evidence: evidence.processes[0].threads[0].call == "read")
        finally:
            assert server.stdin is not None
            server.stdin.close()


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
    "fuse-stalled": _fuse,
}


def _stage_zoo(program: str) -> Callable[[Stage], Recorded]:
    def record(stage: Stage) -> Recorded:
        stage.start_zoo(program)
        return stage.see_tree(f"zoo-{program}")

    return record


STAGES.update({f"zoo-{program}": _stage_zoo(program) for program in ZOO})


BENCHED = (
    "hang_accept", "hang_busy_silent", "hang_busy_steps", "hang_child_prompt", "hang_cpp_extension_lock", "hang_fcntl_outside",
    "hang_file_baton", "hang_filelock_outside", "hang_getpass_tty", "hang_gloo_wrong_master", "hang_hub_half",
    "hang_hub_silent", "hang_import_retry", "hang_inductor_lock", "hang_input_pipe", "hang_input_tty", "hang_lockfile_loop",
    "hang_missing_directory", "hang_native_spin", "hang_native_spin_gil", "hang_noise_append", "hang_noise_spinner",
    "hang_poll_child_log", "hang_poll_path", "hang_poll_port", "hang_regex", "hang_requests_half", "hang_retry_503",
    "hang_softfilelock_stale", "hang_sqlite_outside", "hang_ttin", "hang_urlopen_silent", "hang_wandb_prompt",
)  # fmt: skip
"""Programs of the zoo that need a terminal, an open pipe, somebody outside, or samples over some seconds: seen as the benchmark of
the diagnosis sees them."""


def _stage_benched(name: str) -> Callable[[Stage], Recorded]:
    def record(stage: Stage) -> Recorded:
        saved = stage.place / "cases"
        bench = [sys.executable, str(PROJECT / "scripts" / "bench" / "diagnosis.py"), "--only", name, "--save", str(saved)]
        subprocess.run(bench, check=True, stdout=subprocess.DEVNULL)
        case = msgspec.json.decode((saved / f"{name}.json").read_bytes(), type=Case)
        processes = tuple(
            msgspec.structs.replace(_reduce(process), descriptors=process.descriptors) for process in case.evidence.processes
        )
        evidence = msgspec.structs.replace(case.evidence, processes=processes, outside=(), caches=(), devices=())
        samples = tuple(msgspec.structs.replace(one, files=None, surveys=()) for one in (case.samples[0], case.samples[-1]))
        return Recorded(f"zoo-{name}", evidence, case.looks, samples)

    return record


STAGES.update({f"zoo-{name}": _stage_benched(name) for name in BENCHED})


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
            raw = msgspec.json.encode(recorded)
            text = (raw if name.startswith("zoo-") else msgspec.json.format(raw)).decode()
            (CAPTURES / f"{name}.json").write_text(_anonymise(text, place) + "\n")
            print(f"{name}: {len(text)} bytes", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
