"""The jobs of the soak: short real programs, each with the output and the exit status that it must have.

Every program prints numbered lines to standard output, so that a lost, doubled or damaged line is seen whatever else happened.
"""

from __future__ import annotations

from dataclasses import dataclass

_HEAD = """
import os, sys, time
def line(number): os.write(1, b"%06d " % number + b"x" * WIDTH + b"\\n")
def child(*steps):
    pid = os.fork()
    if pid == 0:
        for step in steps: step()
        os.execv("/bin/sleep", ["sleep", "600"])
    return pid
def fork_again():
    if os.fork(): os._exit(0)
def wipe():
    os.execve("/bin/sleep", ["sleep", "600"], {})
"""


@dataclass(frozen=True)
class SoakJob:
    """One program.

    Attributes:
        name: Its kind.
        code: Python source; ``COUNT`` lines of ``WIDTH`` further bytes are in it as constants.
        lines: Lines that it prints in all attempts together.
        width: Bytes in a line after its number.
        status: Its exit status as ``subprocess`` says it, when nobody does anything to it.
        is_hanging: Whether its first attempt hangs, so that a kill is right.
        seconds: About how long it runs; faults come within it.
    """

    name: str
    code: str
    lines: int
    width: int
    status: int
    is_hanging: bool = False
    seconds: float = 1.5

    @property
    def source(self) -> str:
        """The whole program."""
        return f"WIDTH, COUNT = {self.width}, {self.lines}\n{_HEAD}\n{self.code}"

    @property
    def output(self) -> bytes:
        """What it prints when it is left alone."""
        return b"".join(b"%06d " % number + b"x" * self.width + b"\n" for number in range(self.lines))


PRINTS = SoakJob("prints", "for n in range(COUNT): line(n); time.sleep(0.02)\nsys.exit(0)", 100, 60, 0)
STATUS = SoakJob("exit status 7", "for n in range(COUNT): line(n); time.sleep(0.05)\nsys.exit(7)", 40, 10, 7)
STEPS = SoakJob(
    "slow and healthy",
    "for n in range(COUNT):\n line(n); end = time.process_time() + 0.05\n while time.process_time() < end: pass\n time.sleep(0.5)",
    9, 4, 0, seconds=5.0,
)  # fmt: skip
CHILDREN = SoakJob(
    "children",
    """
import subprocess
for n in range(COUNT):
    code = f"import os; os.write(1, b'%06d ' % {n} + b'x' * {WIDTH} + b'\\\\n')"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
sys.exit(3)
""",
    30, 20, 3,
)  # fmt: skip
ESCAPES = SoakJob(
    "escape artists",
    """
child(lambda: os.setpgid(0, 0)); child(os.setsid); child(os.setsid, fork_again); child(os.setsid, fork_again, wipe)
for n in range(COUNT): line(n); time.sleep(0.05)
""",
    30, 10, 0,
)  # fmt: skip
CRASHES = SoakJob("crash", "for n in range(COUNT): line(n); time.sleep(0.05)\nos.kill(os.getpid(), 6)", 30, 10, -6)
FLOOD = SoakJob("40 MB", "for n in range(COUNT): line(n)\nsys.exit(5)", 20_000, 2000, 5)
HANG = SoakJob(
    "hang and relaunch",
    """
import threading
first = os.environ["UNSLOTH_WATCH_ATTEMPT"] == "1"
for n in range(COUNT // 2): line(n if first else n + COUNT // 2); time.sleep(0.02)
if first:
    child(os.setsid, fork_again)
    lock = threading.Lock(); lock.acquire(); lock.acquire()
sys.exit(4)
""",
    40, 10, 4, is_hanging=True, seconds=10.0,
)  # fmt: skip
JOBS = (PRINTS, STATUS, STEPS, CHILDREN, ESCAPES, CRASHES, FLOOD, HANG, HANG, HANG)
"""Hangs thrice: most states of the supervisor come with them alone."""
