"""Shuts a TCP connection of another process down from outside, so that the code that waits on it hears of its end.

``pidfd_getfd`` (Linux 5.6) gives us a duplicate of that process's socket; it needs the right to trace it, as py-spy does.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket

from unsloth_watch.act.change import Change, MendError
from unsloth_watch.act.guardian import read_start_ticks
from unsloth_watch.model.process import ProcessRef

_PIDFD_GETFD = 438
"""System call number: the same on all architectures that Linux 5.6 knows."""


def shut_down(ref: ProcessRef, fd: int, name: str) -> Change:
    """Shut both directions of a process's TCP connection down.

    Args:
        ref: The process.
        fd: Its descriptor.
        name: ``socket:[n]`` that it must still be.

    Raises:
        MendError: The descriptor is another thing by now or no connection, or the kernel refuses.
        OSError: The socket refuses.
    """
    with _borrow(ref, fd, name) as connection:
        if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.type != socket.SOCK_STREAM:
            raise MendError(f"{name} stays open: it is no TCP connection")
        try:
            host, port, *_ = connection.getpeername()
            peer = f"{host}:{port}"
        except OSError:  # it is still connecting: that is what is given up
            peer = "a peer that has not answered yet"
        connection.shutdown(socket.SHUT_RDWR)
    return Change(f"the connection of PID {ref.pid} to {peer}", "connection", "open", "shut down", "")


def _borrow(ref: ProcessRef, fd: int, name: str) -> socket.socket:
    """Return a duplicate of a process's socket.

    Raises:
        MendError: It is not to be had.
    """
    try:
        pidfd = os.pidfd_open(ref.pid)
    except OSError as error:
        raise MendError(f"{name} stays open: PID {ref.pid} cannot be reached ({error.strerror})") from error
    try:
        if read_start_ticks(ref.pid) != ref.start_ticks:
            raise MendError(f"{name} stays open: PID {ref.pid} has ended")
        libc = ctypes.CDLL(None, use_errno=True)
        got = libc.syscall(_PIDFD_GETFD, pidfd, fd, 0)
        if got == -1:
            code = ctypes.get_errno()
            reason = "tracing is not allowed; see unsloth-watch doctor" if code == errno.EPERM else os.strerror(code)
            raise MendError(f"{name} stays open: {reason}")
    finally:
        os.close(pidfd)
    # What we hold decides, not the number: it may have been closed and used anew in between.
    if os.readlink(f"/proc/self/fd/{got}") != name:
        os.close(got)
        raise MendError(f"{name} stays open: it is not waited on any more")
    return socket.socket(fileno=got)
