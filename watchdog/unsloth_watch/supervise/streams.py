"""The command's standard streams: what it gets, and what the relay reads. On the launch path."""

from __future__ import annotations

import os

from unsloth_watch.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unsloth_watch.act.terminal import Terminal
    from unsloth_watch.config.settings import Settings


class Streams:
    """Descriptors of one attempt: each of the three is what it would be without us, seen from the command.

    Args:
        settings: For ``capture`` and ``stdin``.
        is_input_closed: Whether a remedy gives it an empty standard input, whatever the settings say.

    Attributes:
        stdin_fd: Becomes the command's standard input.
        stdout_fd: Becomes its standard output.
        stderr_fd: Becomes its standard error.
        relayed: Pairs of (descriptor that we read, our descriptor that it is copied to).
        terminal: The command's own terminal, where it has one.
        is_controlling: Whether its standard input is that terminal.
        is_piped: Whether Python in the command would buffer its standard output.

    Raises:
        ConfigError: A pty was asked for where there is no terminal.
    """

    def __init__(self, settings: Settings, *, is_input_closed: bool = False) -> None:
        self._is_null = is_input_closed or settings.stdin == "null"
        self.relayed: list[tuple[int, int | None]] = []
        self.terminal: Terminal | None = None
        self.is_controlling = False
        self._given: list[int] = []
        terminals = [fd for fd in (1, 2) if os.isatty(fd)]
        mode = settings.capture
        if mode == "pty" and not terminals:
            raise ConfigError("--capture pty: neither standard output nor standard error is a terminal; use --capture pipe")
        if mode == "auto":
            mode = "pty" if terminals else "pipe"
        self.stdin_fd, self.stdout_fd, self.stderr_fd = 0, 1, 2
        if mode == "pty":
            self._open_terminal(terminals)
        elif mode == "pipe":
            self.stdout_fd, self.stderr_fd = self._open_pipe(1), self._open_pipe(2)
        if self._is_null:
            self.stdin_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            self._given.append(self.stdin_fd)
        self.is_piped = mode != "inherit" and not (mode == "pty" and 1 in terminals)

    def _open_terminal(self, terminals: list[int]) -> None:
        """Give the command a pty for each of its streams that is a terminal now, and a pipe for the others."""
        from unsloth_watch.act.terminal import open_terminal  # noqa: PLC0415 - only with a terminal

        self.is_controlling = not self._is_null and os.isatty(0)
        self.terminal = open_terminal(terminals[0], 0 if self.is_controlling else None)
        slave = self.terminal.slave_fd
        self.relayed.append((os.dup(self.terminal.master_fd), terminals[0]))
        self.stdout_fd = slave if 1 in terminals else self._open_pipe(1)
        self.stderr_fd = slave if 2 in terminals else self._open_pipe(2)
        if self.is_controlling:
            self.stdin_fd = slave

    def _open_pipe(self, target: int) -> int:
        reader, writer = os.pipe()
        self._given.append(writer)
        self.relayed.append((reader, target))
        return writer

    def take_keys(self) -> None:
        """Pass keys on from now; called before any output is relayed: a Ctrl-C in answer to it must find us listening."""
        if self.terminal is not None:
            self.terminal.start()

    def hand_over(self) -> None:
        """Let go of what the command got, so that its end is seen; called once it runs and its output is being relayed.

        A terminal whose last holder has gone loses what nobody is reading yet, hence not before.
        """
        for fd in self._given:
            os.close(fd)
        self._given.clear()
        if self.terminal is not None:
            self.terminal.close_slave()

    def abandon(self) -> None:
        """Close everything; after a launch that failed."""
        for fd in self._given:
            os.close(fd)
        self._given.clear()
        for fd, _ in self.relayed:
            os.close(fd)
        self.relayed.clear()
        if self.terminal is not None:
            self.terminal.close()
