"""What the programs of the zoo share: when to hang, how to say it, and a little ordinary work.

Standard library only, no thread, no child: nothing here may change the picture that a program gives.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

# A safety net for programs started by hand. A kernel timer and no thread: it cannot be seen in the picture. Children do not have it.
signal.alarm(int(os.environ.get("ZOO_LIMIT", "300")))


def stall() -> float:
    """Return the stall timeout that the program should frighten, seconds."""
    return float(os.environ.get("ZOO_STALL", "20"))


def should_hang() -> bool:
    """Whether this attempt hangs: always, or only the first with ZOO_HANG=first."""
    return os.environ.get("ZOO_HANG") != "first" or os.environ.get("UNSLOTH_WATCH_ATTEMPT", "1") == "1"


def is_first() -> bool:
    """Whether this is the first attempt: what a killed predecessor left lies there once, and stays until somebody takes it away."""
    return os.environ.get("UNSLOTH_WATCH_ATTEMPT", "1") == "1"


def say_hang() -> None:
    """Print the moment at which the hang begins, on the clock that all processes of a machine share (CLOCK_MONOTONIC)."""
    sys.stdout.flush()
    # One write below the buffers: a forked child must not print its parent's pending lines again.
    os.write(1, f"ZOO HANG {time.clock_gettime(time.CLOCK_MONOTONIC):.3f}\n".encode())


def finish() -> None:
    """Say that the work is done; the caller then returns and the interpreter ends by itself."""
    print("ZOO DONE", flush=True)


def directory() -> Path:
    """Return a directory that belongs to this run alone."""
    place = os.environ.get("ZOO_DIR")
    if place is None:
        place = os.environ["ZOO_DIR"] = tempfile.mkdtemp(prefix="zoo-")
    return Path(place)


def compute(seconds: float) -> int:
    """Burn CPU in pure Python for so many seconds of wall time."""
    end, value = time.monotonic() + seconds, 1
    while time.monotonic() < end:
        for _ in range(2000):
            value = (value * 1103515245 + 12345) % 2147483648
    return value


def digest(seconds: float) -> str:
    """Burn CPU in native code, in calls of some 50 ms."""
    end, value = time.monotonic() + seconds, b"zoo"
    while time.monotonic() < end:
        value = hashlib.pbkdf2_hmac("sha256", value, b"salt", 50_000)
    return value.hex()


def train(steps: int = 8, total: int = 100, step_s: float = 0.2, first: int = 1) -> None:
    """Do and log some steps as trainers do."""
    for step in range(first, first + steps):
        compute(step_s)
        print(f"step {step}/{total} loss {2.5 / step**0.3:.4f}", flush=True)


def warm_up(steps: int = 8, total: int = 100) -> None:
    """Live normally for a second or two; in an attempt that shall not hang, end the whole job well."""
    train(steps, total)
    leave_if_cured()


def leave_if_cured() -> None:
    """End the job with success where this attempt shall not hang."""
    if not should_hang():
        finish()
        sys.exit(0)


def outside(*words: str) -> Path:
    """Have somebody outside the tree hold a lock or serve; return the file that the last word names.

    The bench starts ``outside.py`` itself, before the program, so that it is no descendant. Started by hand, it is a child.
    """
    path = directory() / words[-1]
    if "ZOO_OUTSIDE" not in os.environ:
        os.environ["ZOO_OUTSIDE"] = "1"
        command = [sys.executable, "-S", str(Path(__file__).with_name("outside.py")), *words[:-1], str(path)]
        helper = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
        assert helper.stdout is not None
        assert helper.stdout.readline() == b"ready\n"
        helper.stdout.close()
        # Not ours to wait for: it ends by itself when it no longer sees this process.
        helper.returncode = 0
    return path


def ask_waker(kind: str, *words: object, descriptors: tuple[int, ...] = (), after_stalls: float = 0.6) -> socket.socket:
    """Ask somebody outside the tree to wake this program after so many stall timeouts; ``kind`` and words are those of ``outside.py wake``.

    Returns the connection, which the caller keeps open.
    """
    import socket

    client = socket.socket(socket.AF_UNIX)
    client.connect(str(outside("wake", "waker")))
    socket.send_fds(client, [" ".join([kind, str(after_stalls * stall()), *map(str, words)]).encode()], list(descriptors))
    assert client.recv(1) == b"!"
    return client


def port(mode: str) -> int:
    """Return the port of a server outside the tree; ``mode`` is one of ``outside.py``."""
    return int(outside("serve", mode, "port").read_text())
