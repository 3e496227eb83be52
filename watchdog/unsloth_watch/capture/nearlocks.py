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
_POLLED = re.compile(r"lock|baton|O_EXCL|exists\(|is_file\(|access\(|mkdir\(|link\(", re.IGNORECASE)


def find_near_locks(processes: Sequence[ProcessEvidence]) -> tuple[LockFile, ...]:
    """Return the lock files that a polling job may wait for; empty where no thread's loop speaks of anything like it."""
    polling = [process for process in processes if any(map(_may_poll, process.threads))]
    tops = dict.fromkeys(process.cwd for process in polling if process.cwd is not None)
    directories = [directory for top in tops for directory in list_directories(top, DEPTH)]
    tried = [path for process in polling for path in process.glimpses if path.startswith("/") and os.path.isfile(path)]
    found = dict.fromkeys((*tried, *find_lock_files(directories, NAMES)))
    return describe_lock_files(list(found)[:MAX_FILES])


def _may_poll(thread: ThreadEvidence) -> bool:
    return any(_POLLED.search(text) for loop in thread.loops for text in (loop.header, *loop.calls))
