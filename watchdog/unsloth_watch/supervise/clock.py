"""The one clock: monotonic seconds for deadlines, wall time for people."""

from __future__ import annotations

import time

monotonic = time.monotonic
wall = time.time
