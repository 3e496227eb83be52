"""Pruning before a launch, where ``--cache-prune`` asks for it: in a process of its own, so that the supervisor stays small."""

from __future__ import annotations

import subprocess
import sys

_LIMIT_S = 120.0
"""Longest time that a launch waits for it: 100,000 files take about ten seconds on a local disk."""


def prune_before_launch(older_than_s: float) -> None:
    """Prune, and say what came of it in one line. Whatever goes wrong is said, and the launch goes on.

    Args:
        older_than_s: Seconds since the last use.
    """
    # Isolated: a job's directory may hold a json.py, and its PYTHONPATH is not ours.
    command = [sys.executable, "-I", "-m", "unsloth_watch", "cache", "prune", "--older-than", f"{older_than_s:.3f}s"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_LIMIT_S, check=False
        )
        lines = (done.stdout or done.stderr).strip().splitlines()
        said = lines[-1] if lines else f"status {done.returncode}"
    except subprocess.TimeoutExpired:
        said = f"given up after {_LIMIT_S:.0f} s"
    except OSError as error:
        said = f"not done: {error.strerror}"
    sys.stderr.write(f"unsloth-watch: caches pruned before the launch: {said.removeprefix('unsloth-watch: ')}\n")
