"""Terminal mode: the command gets a terminal of its own (a pty), and ours passes keys, size and job control through.

Imported only where stdout is a terminal. The relay copies the output; here are input, modes, size, Ctrl-C and Ctrl-Z.
"""

from __future__ import annotations

import _thread
import atexit
import fcntl
import os
import select
import signal
import termios
from collections.abc import Callable

_PENDING_LIMIT = 64 << 10  # keys that the command has not read; beyond it they are dropped, as a terminal does at 4 kB
_IFLAG, _OFLAG, _CFLAG, _LFLAG, _CC = 0, 1, 2, 3, 6


def copy_size(source_fd: int, target_fd: int) -> None:
    """Copy the window size; the target's foreground group gets SIGWINCH from the kernel when it changed.

    Args:
        source_fd: A terminal.
        target_fd: Another one.
    """
    try:
        size = fcntl.ioctl(source_fd, termios.TIOCGWINSZ, bytes(8))
        fcntl.ioctl(target_fd, termios.TIOCSWINSZ, size)
    except OSError:  # the window is gone; SIGHUP tells of it
        pass


def make_raw(mode: list[int | list[bytes | int]]) -> list[int | list[bytes | int]]:
    """Change a mode as cfmakeraw(3) does: keys come at once and as bytes, output goes out untouched.

    Args:
        mode: As from ``termios.tcgetattr``; not changed.

    Returns:
        The raw mode.
    """
    raw = [*mode]
    cc = raw[_CC]
    iflag, oflag, cflag, lflag = (int(raw[i]) for i in (_IFLAG, _OFLAG, _CFLAG, _LFLAG))  # type: ignore[arg-type]
    raw[_IFLAG] = iflag & ~(
        termios.IGNBRK
        | termios.BRKINT
        | termios.PARMRK
        | termios.ISTRIP
        | termios.INLCR
        | termios.IGNCR
        | termios.ICRNL
        | termios.IXON
    )
    raw[_OFLAG] = oflag & ~termios.OPOST
    raw[_CFLAG] = (cflag & ~(termios.CSIZE | termios.PARENB)) | termios.CS8
    raw[_LFLAG] = lflag & ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    assert isinstance(cc, list)
    cc = [*cc]
    cc[termios.VMIN], cc[termios.VTIME] = 1, 0
    raw[_CC] = cc
    return raw


class Terminal:
    """The command's terminal beside ours; made by ``open_terminal``.

    Args:
        outer_fd: Our terminal, where the output goes.
        input_fd: Our terminal, where keys come from; None when our stdin is something else.
        master_fd: Our side of the pty.
        slave_fd: The command's side.

    Attributes:
        master_fd: Our side of the pty; the relay needs a duplicate of its own.
        slave_fd: For ``Guardian.start``; closed by ``close_slave``.
        interrupts: How often the user pressed the interrupt key while the command left its meaning alone (ISIG).
        suspends: How often the user pressed the suspend key; the loop answers with ``suspend``.
        on_key: Called in the input thread when one of the two counts; to wake the loop, no more.
    """

    def __init__(self, outer_fd: int, input_fd: int | None, master_fd: int, slave_fd: int) -> None:
        self.master_fd = master_fd
        self.slave_fd = slave_fd
        self.interrupts = 0
        self.suspends = 0
        self.on_key: Callable[[], None] | None = None
        self._outer_fd = outer_fd
        self._input_fd = input_fd
        self._mode = termios.tcgetattr(outer_fd)
        self._is_raw = False
        self._is_ended = False
        self._wake, self._waker = os.pipe()
        os.set_blocking(self._wake, False)
        self._thread = _thread.allocate_lock()  # held while the input thread lives

    def start(self) -> None:
        """Go into raw mode, and pass keys on from now; undone by ``close``, and at exit in any case."""
        if self._input_fd is None:
            return
        atexit.register(self.restore)
        self.resume()
        self._thread.acquire()
        _thread.start_new_thread(self._live, ())

    def close_slave(self) -> None:
        """Let go of the command's side, once the command has it."""
        if self.slave_fd != -1:
            os.close(self.slave_fd)
            self.slave_fd = -1

    def close(self) -> None:
        """Restore our terminal, stop passing keys and close our side; the relay's duplicate lives on."""
        if self._is_ended:
            return
        self._is_ended = True
        self.restore()
        atexit.unregister(self.restore)
        self.close_slave()
        os.write(self._waker, b"!")
        if self._thread.acquire(timeout=1.0):
            for fd in (self.master_fd, self._wake, self._waker):
                os.close(fd)

    def resize(self) -> None:
        """Pass our window's size on; to be called on SIGWINCH."""
        copy_size(self._outer_fd, self.master_fd)

    def restore(self) -> None:
        """Give our terminal its own mode back."""
        if self._is_raw:
            self._is_raw = False
            self._set_mode(self._mode)

    def resume(self) -> None:
        """Take our terminal (again), if we are in its foreground; to be called on SIGCONT too."""
        self.resize()
        if self._input_fd is not None and self._is_foreground() and not self._is_raw:
            # Read again: after a stop the shell or the user may have changed it.
            self._mode = termios.tcgetattr(self._outer_fd)
            self._is_raw = self._set_mode(make_raw(self._mode))
            os.write(self._waker, b"!")

    def suspend(self, command_group: int) -> bool:
        """Answer the suspend key as a shell's user expects: stop the job and ourselves; return when continued.

        Only if the command itself has the foreground: where it is a shell, that shell stops its own jobs.

        Args:
            command_group: Process group of the command.

        Returns:
            Whether anything was stopped; the samples across the gap mean nothing then.
        """
        # The terminal's own SIGTSTP does nothing: the command's group is orphaned (its parent is in another session),
        # and the kernel spares orphaned groups every stop signal but SIGSTOP.
        if self.foreground_group() != command_group or not _signal_group(command_group, signal.SIGSTOP):
            return False
        self.restore()
        # The others of our pipeline stop first. For ourselves SIGTSTP, not SIGSTOP: where no shell waits for us (in a
        # container) our group is orphaned as well and nobody would ever continue us, so the kernel lets us go on.
        handler = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
        os.killpg(0, signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        # To this thread: one to the process could reach us after we are in raw mode again.
        signal.pthread_kill(_thread.get_ident(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, handler)
        self.resume()
        _signal_group(command_group, signal.SIGCONT)
        return True

    def foreground_group(self) -> int | None:
        """Process group in the foreground of the command's terminal, None when there is none."""
        try:
            return os.tcgetpgrp(self.master_fd) or None
        except OSError:
            return None

    def _is_foreground(self) -> bool:
        """Whether our terminal is ours: changing it from the background would stop us (SIGTTOU)."""
        try:
            return os.tcgetpgrp(self._outer_fd) == os.getpgrp()
        except OSError:
            return False

    def _set_mode(self, mode: list[int | list[bytes | int]]) -> bool:
        """Set our terminal's mode; False when it is not ours or gone. Never drains: Ctrl-S would hold us up."""
        try:
            if not self._is_foreground():
                return False
            termios.tcsetattr(self._outer_fd, termios.TCSANOW, mode)
        except (OSError, termios.error):
            return False
        return True

    def _live(self) -> None:
        """Be the input thread."""
        try:
            self._pass_keys()
        finally:
            self._thread.release()

    def _pass_keys(self) -> None:
        """Pass keys until one of the terminals is gone or ``close`` is called."""
        assert self._input_fd is not None
        pending = b""
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        while not self._is_ended:
            for fd, wanted in ((self._input_fd, self._is_raw and select.POLLIN), (self.master_fd, pending and select.POLLOUT)):
                # Unregistered while we are in the background: reading there would stop us (SIGTTIN).
                poller.register(fd, wanted) if wanted else _forget(poller, fd)
            ready = {fd for fd, _ in poller.poll()}
            try:
                if self._wake in ready:
                    os.read(self._wake, 4096)
                if self._input_fd in ready and self._is_raw:
                    keys = os.read(self._input_fd, 4096)
                    if not keys:
                        return
                    self._notice(keys)
                    pending = (pending + keys)[:_PENDING_LIMIT]
                if pending:
                    pending = pending[os.write(self.master_fd, pending) :]
            except BlockingIOError:  # the relay made the master nonblocking
                continue
            except (OSError, termios.error):  # our terminal hung up, or the command's is closed
                return

    def _notice(self, keys: bytes) -> None:
        """Count the keys that the command's terminal will turn into signals."""
        mode = termios.tcgetattr(self.master_fd)
        lflag, cc = mode[_LFLAG], mode[_CC]
        if not int(lflag) & termios.ISIG:
            return
        interrupts, suspends = keys.count(cc[termios.VINTR]), keys.count(cc[termios.VSUSP])
        self.interrupts += interrupts
        self.suspends += suspends
        if (interrupts or suspends) and self.on_key:
            self.on_key()


def _signal_group(group: int, signum: int) -> bool:
    """Signal the command's group; False when it has just ended, or has changed its user (``sudo``)."""
    try:
        os.killpg(group, signum)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _forget(poller: select.poll, fd: int) -> None:
    try:
        poller.unregister(fd)
    except KeyError:
        pass


def open_terminal(outer_fd: int, input_fd: int | None = None) -> Terminal:
    """Open a terminal for the command that looks like ours: same size, same modes.

    Args:
        outer_fd: Our terminal.
        input_fd: Our stdin where that is the terminal too; None leaves keys and modes alone.

    Returns:
        The terminal; ``start`` it when the command runs.

    Raises:
        OSError: There is no pty to be had.
    """
    master, slave = os.openpty()
    termios.tcsetattr(slave, termios.TCSANOW, termios.tcgetattr(outer_fd))
    copy_size(outer_fd, slave)
    return Terminal(outer_fd, input_fd, master, slave)
