"""The judge has the last word: what moves while its evidence is taken is not ended for what was said before."""

from __future__ import annotations

import sys

from watched import Watched

# The parent stands still; its child sees that somebody looks at it, and from then on the work goes on.
REVIVED = """
    import os, time
    parent = os.getpid()
    if os.fork() == 0:
        def tracer():
            with open(f"/proc/{parent}/status") as status:
                return int(next(line for line in status if line.startswith("TracerPid:")).split()[1])
        while tracer() == 0:
            time.sleep(0.005)
        for step in range(1, 7):
            print(f"step {step}/6", flush=True)
            time.sleep(0.5)
        os._exit(0)
    print("waits", flush=True)
    os.wait()
"""


def test_a_job_that_moves_while_its_evidence_is_taken_is_left_alone_however_rarely_it_is_looked_at(watched: Watched) -> None:
    options = ("--interval", "2.5s", "--stall-timeout", "10s", "--grace", "1s", "--no-live-repair", "--on-hang", "stop")
    status, out, err = watched.run(sys.executable, watched.script(REVIVED), options=options)
    assert status == 0, err
    assert out.splitlines()[-1] == b"step 6/6", err
    assert not watched.events("hang.detected")
