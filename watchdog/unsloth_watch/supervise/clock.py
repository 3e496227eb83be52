"""The one clock: monotonic seconds for deadlines, wall time for people, CPU seconds of this process for what we cost."""

from __future__ import annotations

import time

monotonic = time.monotonic
wall = time.time
cpu = time.process_time
