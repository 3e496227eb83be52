"""The guardian: a tiny process between supervisor and job that outlives the supervisor by just the time to kill the job.

It stands alone (standard library, nothing of this package) because it is both forked from the supervisor before anything
else is imported, and run as ``python -I -S guardian.py FD`` when one must be re-made from a supervisor that has threads.

Protocol: a Unix stream socket that is the lifeline as well: its end of file means that the supervisor is gone, SIGKILL
included. Messages are a 4-byte little-endian length and a marshalled tuple; a stream, because an environment can be
2 MB and ``SOCK_SEQPACKET`` refuses what does not fit the send buffer (208 KiB).

=============  ===================================================================================================
request        ``("start", argv, environment, cwd, is_terminal, tracer_pid, fd_numbers, group)``, descriptors as SCM_RIGHTS
request        ``("release",)``: go away and leave the job alone
answer         ``("ready",)`` · ``("started", pid, start_ticks)`` · ``("failed", stage, errno)``
news           ``("exited", pid, wait_status)`` of a started command; orphans are reaped without a word
=============  ===================================================================================================
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import gc
import marshal
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, NoReturn

KILL_LIMIT_S = 10.0
"""How long the guardian goes on killing: a D-state process cannot die, and nobody is left to be told."""

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_PTRACER = 0x59616D61  # "Yama"
_MOST_DESCRIPTORS = 253  # SCM_MAX_FD of the kernel
_DEAF = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGALRM")


def read_whole(path: str) -> bytes | None:
    """Read a /proc file to its end; one read gives 4 kB at most, and a wide tree has more children than fit.

    Args:
        path: The file.

    Returns:
        Its content, or None when it cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    parts = []
    try:
        while part := os.read(fd, 65536):
            parts.append(part)
    except OSError:  # ESRCH: it went away between open and read
        return None
    finally:
        os.close(fd)
    return b"".join(parts)


def read_stat(pid: int) -> list[bytes] | None:
    """Read ``/proc/PID/stat`` as fields, counted from the state letter (field 3 of proc(5) is index 0).

    Args:
        pid: The process.

    Returns:
        The fields after the name, or None when the process is gone or unreadable.
    """
    raw = read_whole(f"/proc/{pid}/stat")
    # The name may hold spaces and brackets: the last bracket ends it.
    return raw[raw.rindex(b")") + 2 :].split() if raw else None


def read_start_ticks(pid: int) -> int | None:
    """Read the start time that makes a PID an identity.

    Args:
        pid: The process.

    Returns:
        Clock ticks since boot, or None when the process is gone or unreadable.
    """
    fields = read_stat(pid)
    return int(fields[19]) if fields else None


def _parents() -> dict[int, list[int]]:
    """Map every parent to its children by one look at all of /proc: for kernels without ``CONFIG_PROC_CHILDREN``."""
    found: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := read_stat(int(name))):
            found.setdefault(int(fields[1]), []).append(int(name))
    return found


def children_of(pid: int) -> list[int]:
    """List the direct children of a process, zombies included: every thread has children of its own.

    Args:
        pid: The parent.

    Returns:
        PIDs; empty when the parent is gone.
    """
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    found: list[int] = []
    for task in tasks:
        raw = read_whole(f"/proc/{pid}/task/{task}/children")
        if raw:
            found += map(int, raw.split())
        elif raw is None and not os.path.exists("/proc/thread-self/children"):
            return _parents().get(pid, [])
    return found


def walk(pid: int) -> Iterator[tuple[int, int]]:
    """Go down a process tree, parents first; a parent's children are read only after its turn.

    The reader may therefore kill what it is given: a process with SIGKILL pending can fork no more, so the list of its
    children, read next, is complete.

    Args:
        pid: The root, which is not yielded itself.

    Yields:
        PID and start time in clock ticks, zombies included.
    """
    queue = [pid]
    seen = {pid}
    while queue:
        for child in children_of(queue.pop()):
            start = read_start_ticks(child)
            # A PID that moved to another parent during the walk would come twice.
            if start is not None and child not in seen:
                seen.add(child)
                yield child, start
                queue.append(child)


def descendants(pid: int) -> list[tuple[int, int]]:
    """List everyone below a process.

    Args:
        pid: The root, which is not listed itself.

    Returns:
        PID and start time in clock ticks of each descendant, zombies included.
    """
    return list(walk(pid))


def send_signal(pid: int, start_ticks: int, signum: int) -> bool:
    """Signal a process by identity: never a stranger that got the same PID.

    Args:
        pid: The process.
        start_ticks: Its start time; another one means that the PID was reused.
        signum: Signal number.

    Returns:
        Whether the signal was sent; False when the process is gone.

    Raises:
        PermissionError: It is another user's process.
    """
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    except OSError:  # kernel before 5.3, a seccomp filter, no descriptors left
        fd = -1
    try:
        # A pidfd holds the process fast, so the check cannot go stale before the signal; without it, a gap of microseconds.
        if read_start_ticks(pid) != start_ticks:
            return False
        if fd == -1:
            os.kill(pid, signum)
        else:
            signal.pidfd_send_signal(fd, signum)
    except ProcessLookupError:
        return False
    finally:
        if fd != -1:
            os.close(fd)
    return True


def prctl(option: int, argument: int | bytes) -> int:
    """Set one of the kernel's per-process options; ctypes comes late because its import takes 3 to 5 ms.

    Args:
        option: A ``PR_`` number.
        argument: Second argument, a number or a C string.

    Returns:
        0, or -1 where the kernel refuses.
    """
    import ctypes  # noqa: PLC0415

    second = argument if isinstance(argument, bytes) else ctypes.c_ulong(argument)
    return int(ctypes.CDLL(None).prctl(option, second, ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)))


def become_subreaper() -> bool:
    """Make orphaned descendants come to this process instead of init.

    Returns:
        False where the kernel refuses (older than 3.4, or a sandbox).
    """
    return prctl(_PR_SET_CHILD_SUBREAPER, 1) == 0


def send_message(channel: _socket.socket, message: tuple[Any, ...], descriptors: Sequence[int] = ()) -> None:
    """Send one message, its descriptors with the first byte.

    Args:
        channel: A blocking stream socket.
        message: Anything that marshal takes.
        descriptors: Descriptors for the other side, at most 253.

    Raises:
        OSError: The other side is gone, or there are too many descriptors.
    """
    body = marshal.dumps(message)
    left = memoryview(len(body).to_bytes(4, "little") + body)
    packed = b"".join(fd.to_bytes(4, sys.byteorder) for fd in descriptors)
    ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)] if packed else []
    while left:
        sent = channel.sendmsg([left], ancillary, _socket.MSG_NOSIGNAL)
        left, ancillary = left[sent:], []


def receive_message(channel: _socket.socket) -> tuple[tuple[Any, ...], list[int]] | None:
    """Wait for one message.

    Args:
        channel: A blocking stream socket.

    Returns:
        The message and the descriptors that came with it (close-on-exec), or None at the end of the stream.
    """
    descriptors: list[int] = []
    parts: list[bytes] = []
    got, wanted = 0, 4
    while got < wanted:
        try:
            part, ancillary, _, _ = channel.recvmsg(
                min(wanted - got, 1 << 20), _socket.CMSG_SPACE(4 * _MOST_DESCRIPTORS), _socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:  # it died with our unread words in its buffer
            part, ancillary = b"", []
        for _, kind, packed in ancillary:
            if kind == _socket.SCM_RIGHTS:
                descriptors += [int.from_bytes(packed[i : i + 4], sys.byteorder) for i in range(0, len(packed) - 3, 4)]
        if not part:
            return None
        parts.append(part)
        got += len(part)
        if got == wanted == 4:
            wanted += int.from_bytes(b"".join(parts), "little")
    return marshal.loads(b"".join(parts)[4:]), descriptors  # noqa: S302 - from our own parent, over a private socketpair


def _execute(argv: list[bytes], environment: dict[bytes, bytes]) -> None:
    """Replace this process; looks in the PATH of the given environment as execvp(3) does. Returns only by raising.

    ``os.execvpe`` would do, but imports ``warnings`` first.
    """
    name = argv[0]
    if b"/" in name:
        os.execve(name, argv, environment)  # noqa: S606 - no shell is the point
    refusal = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for folder in environment.get(b"PATH", os.fsencode(os.defpath)).split(b":"):
        try:
            os.execve((folder or b".") + b"/" + name, argv, environment)  # noqa: S606
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as error:  # as in a shell: go on, and say so only if nothing else is found
            refusal = error
    raise refusal


def _write(path: bytes, data: bytes) -> None:
    """Write to a file of a control group; where that fails, the walk through the tree has to do."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(fd, data)
    except OSError:
        pass
    finally:
        os.close(fd)


def _take_terminal() -> None:
    """Make the pty our controlling terminal: stdin where that is one, else stdout or stderr (``echo | unsloth-watch …``)."""
    import termios  # noqa: PLC0415

    for fd in (0, 1, 2):
        try:
            fcntl.ioctl(fd, termios.TIOCSCTTY, 0)
        except OSError:  # no terminal, or that of another session
            continue
        return


def _become_command(request: tuple[Any, ...], descriptors: list[int], report_fd: int) -> NoReturn:
    """Turn the freshly forked process into the command; on failure write stage and errno and exit 127."""
    stage = b"setup"
    try:
        _, argv, environment, cwd, is_terminal, tracer_pid, numbers, group = request
        os.setsid()
        if group:
            _write(group + b"/cgroup.procs", b"0")
        # Sources first go above every number that they may end on, so that no dup2 overwrites another's source.
        floor = max([2, *numbers]) + 1
        report_fd = fcntl.fcntl(report_fd, fcntl.F_DUPFD_CLOEXEC, floor)
        sources = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, floor) for fd in descriptors]
        for source, number in zip(sources, numbers, strict=True):
            os.dup2(source, number, inheritable=True)
        if is_terminal:
            _take_terminal()
        prctl(_PR_SET_PTRACER, tracer_pid)  # refused where Yama is absent, which is fine: then nothing forbids tracing
        signal.set_wakeup_fd(-1)
        for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(signum, signal.SIG_DFL)
        stage = b"chdir"
        os.chdir(cwd)
        stage = b"exec"
        _execute(argv, environment)
    except OSError as error:
        os.write(report_fd, stage + b" %d" % (error.errno or 0))
    except BaseException:  # whatever it is, this copy of the guardian must not go on as a second guardian
        os.write(report_fd, stage + b" %d" % errno.EINVAL)
    os._exit(127)


class _Service:
    """The guardian at work.

    Args:
        channel: Its end of the socket to the supervisor.
    """

    def __init__(self, channel: _socket.socket) -> None:
        self._channel = channel
        self._wake, wake_writer = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(wake_writer, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # SIG_DFL would not write to the wake-up pipe
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        self._commands: set[int] = set()
        self._group = b""
        # The command between fork and exec: PID, start time, and the pipe that execve closes or that brings the errno.
        self._launching: tuple[int, int, int] | None = None

    def run(self) -> bool:
        """Serve until the supervisor is gone.

        Returns:
            Whether the job must die: True at the lifeline's end, False when the supervisor released us.
        """
        send_message(self._channel, ("ready",))
        poller = select.poll()
        poller.register(self._channel.fileno(), select.POLLIN)
        poller.register(self._wake, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poller.poll()}
            if self._launching and self._launching[2] in ready:
                poller.unregister(self._launching[2])
                self._settle()
            if self._wake in ready:
                os.read(self._wake, 4096)
                settled = self._launching[2] if self._launching else -1
                self._reap(poller, settled)
            if self._channel.fileno() in ready:
                received = receive_message(self._channel)
                if received is None:
                    return True
                if received[0][0] == "release":
                    return False
                self._launch(*received)
                if self._launching:
                    poller.register(self._launching[2], select.POLLIN)

    def _launch(self, request: tuple[Any, ...], descriptors: list[int]) -> None:
        """Fork the command; whether it could be executed is known later, so that a hung file system cannot deafen us."""
        self._group = request[7]
        report, report_writer = os.pipe()
        try:
            pid = os.fork()
        except OSError as error:
            os.close(report)
            send_message(self._channel, ("failed", "fork", error.errno or 0))
        else:
            if pid == 0:
                _become_command(request, descriptors, report_writer)
            self._launching = (pid, read_start_ticks(pid) or 0, report)
        os.close(report_writer)
        for fd in descriptors:
            os.close(fd)

    def _settle(self) -> None:
        """Read how the launch ended, and say it."""
        assert self._launching
        pid, start_ticks, report = self._launching
        self._launching = None
        failure = os.read(report, 64).split()
        os.close(report)
        if failure:
            send_message(self._channel, ("failed", failure[0].decode(), int(failure[1])))
        else:
            self._commands.add(pid)
            send_message(self._channel, ("started", pid, start_ticks))

    def _reap(self, poller: select.poll, report: int) -> None:
        """Reap whoever ended, and tell of commands."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._launching and pid == self._launching[0]:
                poller.unregister(report)
                self._settle()  # it is dead, so its pipe is at its end: "started" goes out before "exited"
            if pid in self._commands:
                self._commands.discard(pid)
                send_message(self._channel, ("exited", pid, status))

    def kill_everyone(self, limit_s: float = KILL_LIMIT_S) -> None:
        """SIGKILL every descendant until none is left: ECHILD is proof, because orphans all come to a subreaper."""
        deadline = time.monotonic() + limit_s
        pause_ms = 1
        # Not reaped yet, so the numbers are still theirs; the walk below needs a /proc, and this does not.
        for pid in self._commands:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:  # it has changed its user
                continue
        while time.monotonic() < deadline:
            if self._group:
                _write(self._group + b"/cgroup.kill", b"1")
            for pid, start_ticks in walk(os.getpid()):
                try:
                    send_signal(pid, start_ticks, signal.SIGKILL)
                except OSError:  # a set-uid process of another user: the others must die all the same
                    continue
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pause_ms = 1
            except ChildProcessError:
                return
            select.select([self._wake], [], [], pause_ms / 1000)
            try:
                os.read(self._wake, 4096)
            except BlockingIOError:
                pause_ms = min(pause_ms * 2, 64)


def _settle_in(channel_fd: int) -> None:
    """Leave everything of the supervisor behind: signals, session, descriptors."""
    gc.disable()  # a collection would touch, and so copy, every page that is still shared with the supervisor
    signal.set_wakeup_fd(-1)
    for name in _DEAF:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # commands inherit the empty mask
    try:
        os.setsid()
    except PermissionError:  # already a group leader: run by hand
        pass
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        if fd != channel_fd:
            os.dup2(null, fd)
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2 and fd != channel_fd:
            try:
                os.close(fd)
            except OSError:  # the descriptor of the listing itself
                pass
    os.chdir("/")  # keep no file system busy


def serve(channel_fd: int) -> NoReturn:
    """Be the guardian until the supervisor is gone; never returns.

    Args:
        channel_fd: Descriptor of its end of the socket pair.
    """
    status = 1
    try:
        _settle_in(channel_fd)
        prctl(_PR_SET_NAME, b"unsloth-guard\0")
        become_subreaper()
        # Stopped by somebody, we could not see the lifeline's end. The signal also comes when the thread that forked us ends, and
        # then does no harm.
        prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)
        service = _Service(_socket.socket(fileno=channel_fd))
        status = 2
        try:
            must_kill = service.run()
        except OSError:  # our answer met a dead supervisor (EPIPE): the same as the end of the lifeline
            must_kill = True
        if must_kill:
            service.kill_everyone()
        status = 0
    finally:
        # Not sys.exit: a forked guardian must not run the supervisor's exit handlers or flush its buffers twice.
        os._exit(status)


if __name__ == "__main__":
    # Given as 0 by Guardian.spawn: moved up, so that the standard descriptors can be /dev/null.
    serve(fcntl.fcntl(int(sys.argv[1]), fcntl.F_DUPFD_CLOEXEC, 3))
