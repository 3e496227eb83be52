"""A terminal with a real program on it: what a user types, and what a user sees."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence

# Becomes the session's leader with the pty as its terminal, then the program: what a terminal emulator does.
_LOGIN = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"


class Screen:
    """A pty, the program on it, and everything it has printed.

    Args:
        words: The program.
        environment: Its environment.
        cwd: Its directory.
        rows: Height in lines.
        columns: Width in characters.
    """

    def __init__(self, words: Sequence[str], environment: dict[str, str], cwd: str, rows: int = 33, columns: int = 111) -> None:
        self.master, slave = os.openpty()
        self.resize(rows, columns)
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LOGIN, *words],
            stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=cwd, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.seen = ""
        self._from = 0

    def resize(self, rows: int, columns: int) -> None:
        """Change the window's size; the kernel tells the foreground group."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.master, text.encode())

    def expect(self, pattern: str, seconds: float = 30) -> re.Match[str]:
        """Wait until a pattern shows up behind what was expected last."""
        deadline = time.monotonic() + seconds
        while True:
            match = re.compile(pattern).search(self.seen, self._from)
            if match:
                self._from = match.end()
                return match
            left = deadline - time.monotonic()
            has_more = left > 0 and self._read(left)
            assert has_more, f"{pattern!r} did not show up in {self.seen[self._from :]!r}"

    def wait(self, seconds: float = 30) -> int:
        """Wait for the program's end; return its status, negative for a signal."""
        deadline = time.monotonic() + seconds
        while self._read(max(0.0, deadline - time.monotonic())):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def mode(self) -> list[object]:
        """Return the terminal's mode."""
        return termios.tcgetattr(self.master)

    def close(self) -> None:
        """Hang up, and end the program if that does not; a second call does nothing."""
        if self.master != -1:
            os.close(self.master)
            self.master = -1
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _read(self, seconds: float) -> bool:
        """Take what is printed next; False when nothing comes in time, or nobody holds the terminal any more."""
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        try:
            part = os.read(self.master, 65536)
        except OSError:  # EIO: the last holder is gone
            return False
        self.seen += part.decode("utf-8", "replace")
        return bool(part)
