"""A file of lines that is appended to while things go wrong: full disks, vanished directories, readers at any moment."""

from __future__ import annotations

import os
from collections import deque


class LineFile:
    """Appends whole lines, each with one ``O_APPEND`` write; never raises for what the disk does.

    A line that could not be written waits in a bounded queue and goes out, in order, before the next one. A line that a full
    disk cut is taken back (``ftruncate``); where even that fails, the next line begins on a new line, so that a reader loses
    the torn piece and nothing else.

    Attributes:
        path: The file.
        failures: Number of writes that failed.
        lost: Lines that were dropped because the queue was full.
        trouble: Reason of the newest failure, None while all is well.
    """

    def __init__(self, path: str, queue_limit: int = 1000) -> None:
        self.path = path
        self.failures = 0
        self.lost = 0
        self.trouble: str | None = None
        self._limit = queue_limit
        self._queue: deque[bytes] = deque()
        self._descriptor: int | None = None
        self._is_torn = False

    @property
    def pending(self) -> int:
        """Lines that wait for the disk."""
        return len(self._queue)

    def append(self, line: bytes) -> bool:
        """Queue one line (without its newline) and write what can be written; True when nothing waits any more."""
        self._queue.append(line + b"\n")
        while len(self._queue) > max(self._limit, 1):
            self._queue.popleft()
            self.lost += 1
        return self.retry()

    def retry(self) -> bool:
        """Write what waits, oldest first, until it fails; True when nothing waits any more."""
        try:
            while self._queue:
                self._write(self._queue[0])
                self._queue.popleft()
        except OSError as error:
            self.failures += 1
            self.trouble = error.strerror or str(error)
            self.close()
            return False
        self.trouble = None
        return True

    def forget(self) -> None:
        """Drop what waits, counted as lost: for lines that are worthless when late."""
        self.lost += len(self._queue)
        self._queue.clear()

    def close(self) -> None:
        """Close the descriptor; the next append opens the file again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _write(self, line: bytes) -> None:
        descriptor = self._open()
        data = b"\n" + line if self._is_torn else line
        written = os.write(descriptor, data)
        if written == len(data):
            self._is_torn = False
            return
        self._take_back(descriptor, written)
        raise OSError(28, "No space left on device", self.path)  # what a short write to a regular file means

    def _take_back(self, descriptor: int, written: int) -> None:
        try:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
        except OSError:
            self._is_torn = True

    def _open(self) -> int:
        """Return a descriptor of the file that is at ``path`` now: one that was deleted or moved away is not written to."""
        if self._descriptor is not None:
            try:
                is_current = os.path.samestat(os.stat(self.path), os.fstat(self._descriptor))
            except OSError:
                is_current = False
            if is_current:
                return self._descriptor
            self.close()
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self.path, flags, 0o600)
        size = os.fstat(self._descriptor).st_size
        self._is_torn = size > 0 and os.pread(self._descriptor, 1, size - 1) != b"\n"
        return self._descriptor
