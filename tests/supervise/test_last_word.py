"""The judge has the last word: what moves while its evidence is taken is not ended for what was said before."""

from __future__ import annotations

import sys

from watched import Watched

# The parent stands still; its child sees that the evidence is taken, by the tool that may pause, and from then on the work goes on.
# That the parent is traced shows for some milliseconds only, which a busy machine lets the child miss.
REVIVED = """
    import glob, os, time
    def parent_of(pid):
        with open(f"/proc/{pid}/status") as status:
            return int(next(line for line in status if line.startswith("PPid:")).split()[1])
    root = os.getpid()
    supervisor = parent_of(parent_of(root))
    def is_captured():
        for path in glob.glob(f"/proc/{supervisor}/task/*/children"):
            for pid in open(path).read().split():
                try:
                    with open(f"/proc/{pid}/cmdline", "rb") as file:
                        argv = file.read().split(bytes(1))
                except OSError:
                    continue
                if b"dump" in argv and b"--nonblocking" not in argv:
                    return True
    if os.fork() == 0:
        while not is_captured():
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
