"""Lock files near a job that polls: whose mere existence may be what it waits for.

A file of that kind is open nowhere, so it has to be looked for: where the job works, and where it was seen to try.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from unsloth_watch.capture.lockfiles import describe_lock_files, find_lock_files, list_directories
from unsloth_watch.model.evidence import LockFile, ProcessEvidence, ThreadEvidence

NAMES = ("lock", ".lock", ".lck", ".lockfile", ".pid")
"""Names, and endings where they begin with a dot, that such files have: ``lock`` is torch's, ``.lock`` filelock's."""
DEPTH = 3
"""Levels below a working directory that are searched; at most 400 directories."""
MAX_FILES = 100
_MOST_BYTES = 1024
# Who holds a lock fits into that; whatever is larger was made to be read.
_OF_PACKAGES = frozenset(
    f"{name}.lock"
    for name in ("uv", "poetry", "pdm", "pixi", "conda", "Pipfile", "Cargo", "yarn", "bun", "deno", "flake", "Gemfile")
)
# They say which versions a project has: nobody waits for them to go, and to move them aside would be harm.
_POLLED = re.compile(r"lock|baton|O_EXCL|exists\(|is_file\(|access\(|mkdir\(|link\(", re.IGNORECASE)


def find_near_locks(processes: Sequence[ProcessEvidence]) -> tuple[LockFile, ...]:
    """Return the lock files that a polling job may wait for; empty where no thread's loop speaks of anything like it."""
    polling = [process for process in processes if any(map(_may_poll, process.threads))]
    tops = dict.fromkeys(process.cwd for process in polling if process.cwd is not None)
    directories = [directory for top in tops for directory in list_directories(top, DEPTH)]
    targets = [loop.target for process in polling for thread in process.threads for loop in thread.loops]
    seen = [path for process in polling for path in process.glimpses]
    tried = [path for path in (*targets, *seen) if path.startswith("/") and os.path.isfile(path)]
    near = (path for path in find_lock_files(directories, NAMES) if _may_be_lock(path))
    found = dict.fromkeys((*tried, *near))
    return describe_lock_files(list(found)[:MAX_FILES])


def _may_be_lock(path: str) -> bool:
    try:
        return os.path.basename(path) not in _OF_PACKAGES and os.lstat(path).st_size <= _MOST_BYTES
    except OSError:
        return False  # it has gone by now


def _may_poll(thread: ThreadEvidence) -> bool:
    return any(_POLLED.search(text) for loop in thread.loops for text in (loop.header, *loop.calls))
