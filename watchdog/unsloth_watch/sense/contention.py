"""How much of a core a thread gets that wants to run: on a crowded machine a job that works shows less CPU than it asks for."""

from __future__ import annotations

import os

from unsloth_watch.sense.stat import read_once

_CORES = os.cpu_count() or 1


def read_cpu_share(cores: int = _CORES) -> float | None:
    """Return the share of a core that each runnable thread of this machine gets at this moment, 1 while there are cores to spare.

    None where ``/proc/loadavg`` is missing or does not say how many threads are runnable. A limit of a control group is not seen.
    """
    try:
        # ``5.47 4.28 3.04 6/412 4711``: runnable ones, ourselves included, of all.
        runnable = int(read_once("/proc/loadavg", 128).split()[3].partition(b"/")[0])
    except (OSError, IndexError, ValueError):
        return None
    return min(1.0, cores / runnable) if runnable > 0 else None
