#!/usr/bin/env python3
"""Records the surveys that the proof is tested with: programs of the zoo, seen four times by the real survey.

``python scripts/record_surveys.py [PROGRAM]...`` writes ``tests/data/surveys/PROGRAM.json``; without names, all of them, in about
four minutes. Run it with the project's own interpreter. Paths of this machine are replaced by neutral ones.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import msgspec

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT / "scripts"), str(PROJECT / "scripts" / "bench"), str(PROJECT / "tests")]

from zoorun import Run  # noqa: E402

import environments  # noqa: E402 - found by the line above
from unsloth_watch.capture.capture import survey  # noqa: E402
from unsloth_watch.capture.children import own_pids  # noqa: E402
from unsloth_watch.capture.process import read_start  # noqa: E402
from unsloth_watch.model.evidence import Evidence  # noqa: E402
from unsloth_watch.model.process import ProcessRef  # noqa: E402
from unsloth_watch.sense.tree import ProcessTree  # noqa: E402
from zoo_reading import PLACE, read_program  # noqa: E402

SURVEYS = PROJECT / "tests" / "data" / "surveys"
COUNT = 4
APART_S = 2.0
STALL_S = 30.0
READY_S = 60.0

HANGING = (
    *("abba", "queue_dead_thread", "pipe_stderr", "fork_lock", "pool_worker_killed", "mp_lock_killed", "asyncio_future"),
    *("socket_inside", "flock_inside", "stop_child", "grandchild", "dataloader_worker_stuck", "noise_alive"),
    *("import_cycle", "executor_nested", "pipe_end_kept", "gil_mutex", "manager_lock", "http_callback"),
)
HEALTHY = (
    *("outside_eventfd", "outside_pipe", "outside_fifo", "outside_unix", "outside_signal", "outside_semaphore", "outside_flock"),
    *("outside_inotify", "outside_epoll", "outside_manager", "clock_itimer", "clock_posix_timer", "clock_timerfd", "clock_thread"),
    *(
        "clock_native_thread",
        "clock_child",
        "clock_sigchld",
        "clock_killer",
        "clock_killer_loop",
        "clock_mp_event",
        "clock_queue",
        "clock_asyncio",
    ),
    *("clock_dataloader", "gil_clock", "gil_pipe", "gil_join", "manager_clock", "clock_interrupt", "clock_tee"),
)
NAMES = (*(f"hang_{name}" for name in HANGING), *(f"healthy_{name}" for name in HEALTHY))


def main(names: list[str]) -> int:
    """Record the named programs, all by default."""
    SURVEYS.mkdir(parents=True, exist_ok=True)
    for name in names or NAMES:
        surveys = record(name)
        text = msgspec.json.format(msgspec.json.encode(surveys), indent=0).decode()
        for path, neutral in ((str(PROJECT), "/project"), (str(Path.home()), "/home/user")):
            text = text.replace(path, neutral)
        (SURVEYS / f"{name}.json").write_text(text + "\n")
        print(name, len(text), flush=True)
    return 0


def record(name: str) -> list[Evidence]:
    """Return surveys of one program, taken while it waits, and end it."""
    program = read_program(PLACE / f"{name}.py")
    if program.needs:
        environments.python_of("modern")
    with tempfile.TemporaryDirectory(prefix="zoo-survey-") as place:
        run = Run(program, STALL_S, Path(place))
        process = run.start(run.command)
        try:
            wait_until_ready(run, process.pid)
            root = ProcessRef(process.pid, read_start(process.pid) or 0)
            tree = ProcessTree((process.pid,), lambda: {os.getpid(), *own_pids()}, has_anchors=True)
            surveys = []
            for _ in range(COUNT):
                at = time.monotonic()
                surveys.append(survey(tree.members(), root, at=at, clock=time.monotonic, is_sealed=True))
                time.sleep(max(0.0, at + APART_S - time.monotonic()))
            tree.close()
            return surveys
        finally:
            run.close(process)


def wait_until_ready(run: Run, pid: int) -> None:
    """Wait until a program has begun to hang, or has made its first steps, and then for a second of rest."""
    deadline = time.monotonic() + READY_S
    while not (run.hang_moment() if run.program.is_hang else "step 3/" in run.printed()):
        if time.monotonic() > deadline or not Path(f"/proc/{pid}").exists():
            raise RuntimeError(f"{run.program.name} did not get ready: {run.printed()[-200:]}")
        time.sleep(0.1)
    time.sleep(1.5)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
