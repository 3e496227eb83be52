"""Launching: the supervisor's side of the guardian.

On the way to the child's exec, so it imports nothing that costs: ``_socket`` takes 0.3 ms where ``socket`` takes 8.
"""

from __future__ import annotations

import _socket
import errno
import marshal
import os
import select
import signal
import sys
import time

from unsloth_watch.act import guardian as guardian_module
from unsloth_watch.act.exits import GUARDIANS, Exited
from unsloth_watch.act.guardian import read_stat, send_message
from unsloth_watch.errors import EXIT_SUPERVISOR, LaunchError, WatchError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_START_LIMIT_S = 30.0
"""Longest wait for an execve: only a hung file system needs more than milliseconds."""


class Started:
    """A command that was executed.

    Attributes:
        pid: Its PID; leader of its own session and process group.
        start_ticks: Its start time in clock ticks since boot, which makes the PID an identity.
    """

    __slots__ = ("pid", "start_ticks")

    def __init__(self, pid: int, start_ticks: int) -> None:
        self.pid = pid
        self.start_ticks = start_ticks

    def __repr__(self) -> str:
        return f"Started(pid={self.pid}, start_ticks={self.start_ticks})"


def inherited_fds() -> list[int]:
    """List descriptors above 2 that our own caller meant for the command: ``cmd <(…)``, a make jobserver, sockets of systemd.

    Python marks all it opens close-on-exec, so whatever is inheritable came from outside. Ask before loading libraries
    that open files of their own (NVML).

    Returns:
        Descriptor numbers, ascending.
    """
    found = []
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            if fd > 2 and os.get_inheritable(fd):
                found.append(fd)
        except OSError:  # the descriptor of the listing itself
            continue
    return sorted(found)


class Guardian:
    """The supervisor's handle on its guardian; made by ``fork`` or ``spawn``.

    Args:
        pid: The guardian's PID.
        channel: Our end of the socket.

    Attributes:
        pid: The guardian's PID.
        is_lost: True once the guardian is gone without having been asked to: its orphans are then ours if
            ``become_subreaper`` was called, and ``reap_orphans`` learns how the command ends.
    """

    def __init__(self, pid: int, channel: _socket.socket) -> None:
        self.pid = pid
        self.is_lost = False
        self._channel = channel
        self._buffer = b""
        self._exits: list[Exited] = []
        self._answers: list[tuple[Any, ...]] = []
        self._is_reaped = False
        GUARDIANS.add(pid)

    @classmethod
    def fork(cls) -> Guardian:
        """Fork a guardian; costs 1 to 2 ms. Only while this process has a single thread.

        Returns:
            A handle; the guardian may still be settling in, ``start`` waits for it.
        """
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        pid = os.fork()
        if pid == 0:
            guardian_module.serve(theirs.detach())
        theirs.close()
        return cls(pid, ours)

    @classmethod
    def spawn(cls) -> Guardian:
        """Execute a guardian afresh, which is safe from a process with threads; costs a bare Python start.

        Returns:
            A handle; the guardian may still be starting, ``start`` waits for it.

        Raises:
            WatchError: There is no Python interpreter to run it with.
        """
        if not sys.executable:
            msg = "cannot start a guardian: sys.executable is empty, so there is no Python to run it with"
            raise WatchError(msg)
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        command = [sys.executable, "-I", "-S", guardian_module.__file__, "0"]
        # Its end goes in as descriptor 0: no number can clash, and nothing is ever inheritable in this process.
        pid = os.posix_spawn(command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0)])
        theirs.close()
        return cls(pid, ours)

    def fileno(self) -> int:
        """Descriptor for poll: readable when ``exits`` has news, the guardian's death included."""
        return self._channel.fileno()

    def start(  # noqa: PLR0917 - the seven things that make a process, in execve's order
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        cwd: str,
        stdin_fd: int,
        stdout_fd: int,
        stderr_fd: int,
        is_terminal: bool = False,
        pass_fds: Sequence[int] = (),
        timeout_s: float = _START_LIMIT_S,
        group: str = "",
    ) -> Started:
        """Start a command in a session of its own and wait until it is executed.

        Signals are at their defaults and none is blocked in the command; no descriptor but the three and ``pass_fds`` is
        open in it; this process may trace it under Yama.

        Args:
            argv: Command and arguments; the command is looked up in the PATH of ``environment``.
            environment: The whole environment.
            cwd: Working directory.
            stdin_fd: Our descriptor that becomes its standard input; stays open here.
            stdout_fd: The same for its standard output.
            stderr_fd: The same for its standard error.
            is_terminal: Whether the first of the three that is a free terminal shall be its controlling terminal.
            pass_fds: Descriptors that it gets under the same numbers.
            timeout_s: Longest wait for the execve, seconds.
            group: Directory of a control group that it is put into; empty leaves it in ours.

        Returns:
            The running command.

        Raises:
            LaunchError: It could not be executed, or the guardian is gone.
        """
        message = (
            "start",
            [os.fsencode(part) for part in argv],
            {os.fsencode(name): os.fsencode(value) for name, value in environment.items()},
            os.fsencode(cwd),
            is_terminal,
            os.getpid(),
            [0, 1, 2, *pass_fds],
            os.fsencode(group),
        )
        try:
            send_message(self._channel, message, [stdin_fd, stdout_fd, stderr_fd, *pass_fds])
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise LaunchError(f"cannot start {argv[0]}: {error.strerror}", error.errno or errno.EINVAL) from error
            self.is_lost = True
        answer = self._await_answer(timeout_s)
        if answer is not None and answer[0] == "started":
            return Started(answer[1], answer[2])
        if answer is not None:
            from unsloth_watch.act.refusal import explain_refusal  # noqa: PLC0415 - only for a command that does not start

            raise explain_refusal(argv[0], environment, cwd, answer[1], answer[2])
        if self.is_lost:
            refusal = LaunchError(f"cannot start {argv[0]}: the guardian process {self.pid} is gone; start a new one", errno.EPIPE)
        else:
            self.close(timeout_s=0.1)  # its answer would come late and be taken for that of another command
            refusal = LaunchError(
                f"cannot start {argv[0]}: not executed after {timeout_s:g} s; its file system may hang", errno.ETIMEDOUT
            )
        refusal.exit_code = EXIT_SUPERVISOR
        raise refusal

    def exits(self) -> list[Exited]:
        """Return commands that ended since the last call; never blocks. Look at ``is_lost`` after it."""
        self._read()
        found, self._exits = self._exits, []
        return found

    def is_alive(self) -> bool:
        """Whether the guardian process lives; reaps it when it does not."""
        if not self._is_reaped:
            try:
                self._is_reaped = os.waitpid(self.pid, os.WNOHANG)[0] == self.pid
            except ChildProcessError:
                self._is_reaped = True
            if self._is_reaped:
                GUARDIANS.discard(self.pid)
        return not self._is_reaped

    def wake(self) -> bool:
        """Continue the guardian where somebody has stopped it: stopped, it tells no end and starts nothing.

        Returns:
            Whether it was stopped.
        """
        if self.is_lost or self._is_reaped:
            return False
        fields = read_stat(self.pid)
        if fields is None or fields[0] != b"T":
            return False
        os.kill(self.pid, signal.SIGCONT)  # our child, not reaped yet: the number is its own
        return True

    def close(self, kill: bool = True, timeout_s: float = guardian_module.KILL_LIMIT_S + 1) -> bool:
        """Send the guardian away and reap it.

        Args:
            kill: Whether it kills everyone below it first; otherwise they become orphans.
            timeout_s: Longest wait, seconds; killing itself takes milliseconds unless someone is in D state.

        Returns:
            Whether the guardian is gone.
        """
        if self._channel.fileno() != -1:
            if not kill:
                try:
                    send_message(self._channel, ("release",))
                except OSError:  # gone already
                    pass
            else:
                self._channel.shutdown(_socket.SHUT_WR)
        deadline = time.monotonic() + timeout_s
        while self.is_alive() and time.monotonic() < deadline:
            self.wake()
            self._wait(0.005 if self.is_lost else 0.05)
            self._read()
        self._channel.close()
        return self._is_reaped

    def _await_answer(self, timeout_s: float) -> tuple[Any, ...] | None:
        """Wait for the answer to a start; None when the time is over or the guardian is lost."""
        deadline = time.monotonic() + timeout_s
        while not self._answers and not self.is_lost and (left := deadline - time.monotonic()) > 0:
            self.wake()
            self._wait(min(left, 1.0))
            self._read()
        return self._answers.pop(0) if self._answers else None

    def _wait(self, timeout_s: float) -> None:
        """Wait until the guardian says something, or for the time given."""
        if self._channel.fileno() == -1 or self.is_lost:
            time.sleep(timeout_s)
            return
        poller = select.poll()
        poller.register(self._channel.fileno(), select.POLLIN)
        poller.poll(timeout_s * 1000)

    def _read(self) -> None:
        """Take what has come, and sort it."""
        while not self.is_lost and self._channel.fileno() != -1:
            try:
                part = self._channel.recv(65536, _socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except ConnectionResetError:
                part = b""
            if not part:
                self.is_lost = True
            self._buffer += part
        while len(self._buffer) >= 4:
            end = 4 + int.from_bytes(self._buffer[:4], "little")
            if len(self._buffer) < end:
                return
            message = marshal.loads(self._buffer[4:end])  # noqa: S302 - from our own child, over a private socketpair
            self._buffer = self._buffer[end:]
            if message[0] == "exited":
                self._exits.append(Exited(message[1], message[2]))
            elif message[0] in ("started", "failed"):
                self._answers.append(message)
