"""The command's own word: the datagram socket behind ``NOTIFY_SOCKET``, on which it may report progress as to systemd.

``X_STEP=n`` says that step n is done, ``WATCHDOG=1`` that work went on; ``STATUS=…`` is shown to people. Opened before the command
is launched, so it imports nothing heavy.
"""

from __future__ import annotations

import _socket
import os

_LONGEST_PATH = 107
"""Bytes of a socket's path that the kernel accepts (``sun_path``)."""
_MOST_DATAGRAMS = 256
"""Datagrams taken in one tick; a flood waits for the next."""


class HeartbeatReader:
    """Receives notifications without ever blocking.

    Args:
        directory: Where the socket is made; an abstract name is used where its path would be too long.

    Attributes:
        address: Value for ``NOTIFY_SOCKET``.
        status: Newest ``STATUS=`` line, empty before the first.
    """

    def __init__(self, directory: str) -> None:
        self.status = ""
        self._count: int | None = None
        self._step: int | None = None
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
        path = os.path.join(directory, "notify")
        if len(os.fsencode(path)) > _LONGEST_PATH:
            path = f"\0unsloth-watch/{os.getpid()}/{os.urandom(8).hex()}"
        self._socket.bind(path)
        self._path = path if path[0] != "\0" else None
        self.address = "@" + path[1:] if path[0] == "\0" else path

    def latest(self) -> int | None:
        """Return a number that changes whenever the command reported work; None if it never did."""
        self.drain()
        if self._count is None and self._step is None:
            return None
        return (self._step or 0) + (self._count or 0)

    def fileno(self) -> int:
        """Descriptor for poll."""
        return self._socket.fileno()

    def drain(self) -> None:
        """Take in what has come: the kernel lets ten datagrams wait (``net.unix.max_dgram_qlen``), and holds up who sends more."""
        for _ in range(_MOST_DATAGRAMS):
            try:
                data = self._socket.recv(4096)
            except OSError:
                break
            self._take(data)

    def _take(self, data: bytes) -> None:
        for line in data.decode("utf-8", "replace").splitlines():
            key, _, value = line.partition("=")
            if key == "X_STEP" and value.isascii() and value.isdigit() and len(value) < 16:
                # A step reported again is no progress; one that falls back is a new pass.
                self._step = int(value)
            elif key == "WATCHDOG" and value == "1":
                self._count = (self._count or 0) + 1
            elif key == "STATUS":
                self.status = value[:200]

    def close(self) -> None:
        """Close and remove the socket."""
        self._socket.close()
        if self._path is not None:
            try:
                os.unlink(self._path)
            except OSError:  # the run directory is gone
                pass
