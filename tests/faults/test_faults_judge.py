"""A fault of the judge itself: it is told, and neither the supervisor nor the job ends by it."""

from __future__ import annotations

import sys
from pathlib import Path

from watched import Watched

FAULTY = """
import sys
import unsloth_watch.supervise.watch as module
from unsloth_watch.cli.main import main

right, ticks = module.Watch.tick, []

def tick(self, now):
    ticks.append(now)
    if len(ticks) == 2:
        raise KeyError("a counter that is not there")
    return right(self, now)

module.Watch.tick = tick
sys.exit(main())
"""


def test_a_fault_of_the_judge_is_told_and_a_hang_is_found_nevertheless(watched: Watched, tmp_path: Path) -> None:
    faulty = tmp_path / "faulty.py"
    faulty.write_text(FAULTY)
    options = ("--stall-timeout", "4s", "--on-hang", "stop", "--grace", "1s")
    hang = "import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()"
    status, _, err = watched.run(sys.executable, "-c", hang, options=options, program=[sys.executable, str(faulty)])
    assert status == 124, err
    (told,) = [event for event in watched.events("sensor.degraded") if event["sensor"] == "judge"]
    assert "a counter that is not there" in told["why"]
    assert len(watched.events("hang.detected")) == 1
