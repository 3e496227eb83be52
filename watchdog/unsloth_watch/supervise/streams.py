"""The command's standard streams: what it gets, and what the relay reads. On the launch path."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unsloth_watch.act.terminal import Terminal
    from unsloth_watch.config.settings import Settings


class Streams:
    """Descriptors of one attempt.

    Attributes:
        stdin_fd: Becomes the command's standard input.
        stdout_fd: Becomes its standard output.
        stderr_fd: Becomes its standard error.
        relayed: Pairs of (descriptor that we read, our descriptor that it is copied to).
        terminal: The pty, where there is one.
        is_piped: Whether Python in the command would buffer its output.
    """

    def __init__(self, settings: Settings, terminal: Terminal | None) -> None:
        self.terminal = terminal
        self.relayed: list[tuple[int, int | None]] = []
        self._given: list[int] = []
        self.is_piped = False
        mode = choose_capture(settings)
        if terminal is not None:
            self.stdin_fd = self.stdout_fd = self.stderr_fd = terminal.open_slave()
            self._given.append(self.stdin_fd)
            self.relayed.append((terminal.master_fd, 1))
        elif mode == "inherit":
            self.stdin_fd, self.stdout_fd, self.stderr_fd = 0, 1, 2
        else:
            self.is_piped = True
            self.stdin_fd = 0
            self.stdout_fd, self.stderr_fd = self._pipe(1), self._pipe(2)
        if settings.stdin == "null" and terminal is None:
            self.stdin_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            self._given.append(self.stdin_fd)

    def _pipe(self, target: int) -> int:
        reader, writer = os.pipe()
        self._given.append(writer)
        self.relayed.append((reader, target))
        return writer

    def close_given(self) -> None:
        """Close our copies of what the command got, so that its end is seen."""
        for fd in self._given:
            os.close(fd)
        self._given.clear()

    def close_read(self) -> None:
        """Close what the relay would have read; after a launch that failed."""
        for fd, _ in self.relayed:
            os.close(fd)
        self.relayed.clear()


def choose_capture(settings: Settings) -> str:
    """Return ``pty``, ``pipe`` or ``inherit``: a pty only where output and input are a terminal anyway."""
    if settings.capture != "auto":
        return settings.capture
    return "pty" if settings.stdin == "inherit" and os.isatty(0) and os.isatty(1) else "pipe"
