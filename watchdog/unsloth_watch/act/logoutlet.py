"""The outlet to ``output.log``: rotated, and never dead."""

from __future__ import annotations

import os
import time

from unsloth_watch.act.outlet import Outlet

LOG_LIMIT = 64 << 20
"""Size at which ``output.log`` is rotated, bytes."""
_RETRY_S = 0.5
"""Seconds between two attempts to write where that failed."""


class LogOutlet(Outlet):
    """``output.log``: rotated at a set size; a disk that is full or gone costs a gap and never more.

    Args:
        path: The file; appended to.
        limit_bytes: Size at which it becomes ``.1``, replacing an earlier one.
    """

    def __init__(self, path: str, limit_bytes: int = LOG_LIMIT) -> None:
        self._path = path
        self._limit_bytes = limit_bytes
        self._size = 0
        super().__init__(os.path.basename(path), -1, None)

    def _write(self, data: memoryview) -> int:
        if self._fd == -1:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            self._size = os.fstat(self._fd).st_size
        if self._size >= self._limit_bytes:
            os.close(self._fd)
            self._fd = -1
            os.replace(self._path, self._path + ".1")
            return 0
        written = os.write(self._fd, data)
        self._size += written
        self.is_failing = False
        return written

    def _fail(self, error: OSError) -> None:
        # Nobody but us decides over this file, so no error is for ever: a folder may be remade, space freed.
        self._note(f"{self.name}: {error.strerror}; trying again")
        self.is_failing = True
        time.sleep(_RETRY_S)

    def _finish(self) -> None:
        if self._fd != -1:
            os.close(self._fd)
            self._fd = -1
