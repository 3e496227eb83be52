"""Outlets: where relayed output goes, each with a queue and a writer thread of its own, so that no reader waits for one.

On the way to the child's exec: ``_thread`` is built in, where ``threading`` takes 3 ms. In one file, because memory, spill file and
writer's hand hold one order of bytes under one lock: none of them can be read without the others.
"""

from __future__ import annotations

import _thread
import errno
import os
import select
import stat
import time
from collections import deque

from unsloth_watch.act.threads import Doorbell, start_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Piece: TypeAlias = "bytes | int"  # output, or how many bytes of it are missing here

MEMORY_LIMIT = 4 << 20
"""Bytes that may wait in memory for one outlet."""
SPILL_LIMIT = 8 << 30
"""Bytes that may wait on disk for one outlet; beyond it they are dropped, because a paused reader must not fill a disk."""

_HIGH_WATER = MEMORY_LIMIT // 2  # from here on the spiller works; the other half is what comes while it writes
_LARGEST_WRITE = 256 << 10  # four times a pipe: larger ones gain nothing and hide progress
_SMALLEST_WRITE = 4096
_JOIN_BYTES = 16 << 10
_SLOW_WRITE_S = 0.1
_RETRY_S = 0.5  # full disk: between two attempts
_HOLD_S = 0.25  # how long a line of our own waits for the command to end its line

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def gap_marker(size: int) -> bytes:
    """Write the line that stands where output is missing.

    Args:
        size: Number of missing bytes.

    Returns:
        A whole line with a line end before it, because what is missing may have ended in mid-line.
    """
    return b"\n[unsloth-watch: %d bytes of output are missing here]\n" % size


class Outlet:
    """A descriptor that output is copied to, losslessly as long as a disk can hold what its reader does not take.

    Order is kept by one rule: what waits in the spill file is older than what waits in memory.

    Args:
        name: What people call it (``stdout``).
        fd: Where to write; never closed and its flags never changed, because both are shared with others.
        spill_folder: Where the unlinked spill file goes; None to drop instead of spilling.
        spill_limit: Most bytes in that file.

    Attributes:
        name: As given.
        delivered_bytes: Bytes written so far.
        lost_bytes: Bytes dropped so far.
        is_dead: Whether its reader is gone; everything is then thrown away.
        line_end: End of a line of our own: CR LF where the terminal is in raw mode.
        is_ended: Whether its writer thread is over, so that the descriptor may be closed.
        is_failing: Whether the last write failed and is tried again.
        faults: One sentence a kind of fault, in the order of their first appearance.
    """

    def __init__(self, name: str, fd: int, spill_folder: str | None, spill_limit: int = SPILL_LIMIT) -> None:
        self.name = name
        self.delivered_bytes = 0
        self.lost_bytes = 0
        self.is_dead = False
        self.is_ended = False
        self.is_failing = False
        self.line_end = b"\n"
        self.faults: list[str] = []
        self._fd = fd
        self._spill_folder = spill_folder
        self._spill_limit = spill_limit
        # Held for microseconds, never over a system call.
        self._lock = _thread.allocate_lock()
        self._memory: deque[Piece] = deque()
        self._memory_bytes = 0
        self._spill_fd = -1
        self._spill_read = 0
        self._spill_written = 0
        self._is_moving = False  # the spiller has pieces in hand that are newer than the file and older than the memory
        self._moving_bytes = 0
        self._full_since: float | None = None
        self._in_hand = 0  # bytes that the writer has in hand
        self._is_closing = False
        self._is_line_start = True
        self._held: list[bytes] = []
        self._held_since = 0.0
        self._spiller: Doorbell | None = None
        self._bell = Doorbell()
        start_thread(self._write_on)

    def has_room(self) -> bool:
        """Whether ``put`` would keep what it is given."""
        return self._memory_bytes < MEMORY_LIMIT or self.is_dead

    def full_since(self, now: float) -> float | None:
        """Return since when there has been no room, as far as the relay's looks can tell; None where there is.

        Args:
            now: Monotonic seconds of this look.
        """
        if self.has_room():
            self._full_since = None
        elif self._full_since is None:
            self._full_since = now
        return self._full_since

    def put(self, chunk: bytes, is_last: bool = False) -> None:
        """Queue output; never blocks. Without room it is counted as lost, with a marker in its place.

        Args:
            chunk: Output of the command.
            is_last: Whether it must be kept even beyond the limit: the at most 1 MiB a stream that is left at the end.
        """
        if self.is_dead or not chunk:
            return
        with self._lock:
            if self._memory_bytes >= MEMORY_LIMIT and not is_last:
                self._lose(len(chunk))
                self._note(f"{self.name}: output came faster than it could be written or kept; some is missing")
            else:
                if self._held:
                    cut = chunk.rfind(b"\n") + 1
                    if cut:
                        self._append(chunk[:cut])
                        self._release_held()
                        chunk = chunk[cut:]
                if chunk:
                    self._append(chunk)
                    self._is_line_start = chunk.endswith(b"\n")
            spiller = self._spiller
        self._bell.ring()
        if self._memory_bytes > _HIGH_WATER and self._spill_folder is not None:
            if spiller is None:
                spiller = self._start_spiller()
            if spiller is not None:
                spiller.ring()

    def _start_spiller(self) -> Doorbell | None:
        """Start the spiller thread; None where no thread can be started now, and the next chunk tries again."""
        bell = Doorbell()
        try:
            _thread.start_new_thread(self._spill_on, (bell,))
        except RuntimeError:  # the job has used up this user's or control group's processes; meanwhile memory is all there is
            self._note(f"{self.name}: its reader is slow and no thread can be started to keep its output on disk")
            return None
        self._spiller = bell
        return bell

    def say(self, line: bytes) -> None:
        """Queue a line of our own, to go out at a line boundary; never blocks.

        Args:
            line: One line without its end.
        """
        with self._lock:
            self._held.append(line + self.line_end)
            if self._is_line_start:
                self._release_held()
            elif len(self._held) == 1:
                self._held_since = time.monotonic()
        self._bell.ring()

    def release_say(self, is_forced: bool = False) -> bool:
        """Let held lines out when the command does not end its line: a progress bar never does.

        Args:
            is_forced: Whether to do so at once.

        Returns:
            Whether lines are still held, so that another call is needed.
        """
        with self._lock:
            if not self._held:
                return False
            if not is_forced and time.monotonic() - self._held_since < _HOLD_S:
                return True
            self._append(self.line_end)
            self._release_held()
        self._bell.ring()
        return False

    def waiting_bytes(self) -> int:
        """Count the bytes not yet delivered, in memory, on disk and in the writer's hand."""
        with self._lock:
            waiting = self._memory_bytes + self._moving_bytes + self._spill_written - self._spill_read + self._in_hand
            return waiting or len(self._memory)  # a gap alone has no bytes, and its marker must go out all the same

    def close(self) -> None:
        """Let the threads end; what still waits is lost. Never blocks."""
        waiting = 0 if self.is_dead else self.waiting_bytes()
        if waiting:
            self.lost_bytes += waiting
            self._note(f"{self.name}: {waiting} bytes were not taken in time")
        self._is_closing = True
        self._bell.ring()
        if self._spiller:
            self._spiller.ring()

    def _note(self, fault: str) -> None:
        if fault not in self.faults:
            self.faults.append(fault)

    def _append(self, chunk: bytes) -> None:
        self._memory_bytes += len(chunk)
        # Small pieces are joined: four megabytes of one-byte writes would be 200 MB of objects.
        if self._memory and isinstance(last := self._memory[-1], bytes) and len(last) + len(chunk) <= _JOIN_BYTES:
            self._memory[-1] = last + chunk
        else:
            self._memory.append(chunk)

    def _release_held(self) -> None:
        for line in self._held:
            self._append(line)
        self._held.clear()
        self._is_line_start = True

    def _lose(self, size: int) -> None:
        """Count newest output as lost and mark the gap at the end of the queue; neighbouring gaps become one."""
        self.lost_bytes += size
        if self._memory and isinstance(last := self._memory[-1], int):
            self._memory[-1] = last + size
        else:
            self._memory.append(size)
            self._is_line_start = True

    def _pop(self, limit: int) -> tuple[int, bytes]:
        """Take the oldest pieces from memory: the gap before them, or 0, and output up to the next gap."""
        gap = self._memory.popleft() if self._memory and isinstance(self._memory[0], int) else 0
        assert isinstance(gap, int)
        parts: list[bytes] = []
        size = 0
        while self._memory and isinstance(piece := self._memory[0], bytes) and (size == 0 or size + len(piece) <= limit):
            self._memory.popleft()
            parts.append(piece)
            size += len(piece)
        self._memory_bytes -= size
        return gap, (parts[0] if len(parts) == 1 else b"".join(parts))

    def _write_on(self) -> None:
        """Be the writer thread."""
        while not self._is_closing:
            try:
                batch = self._take()
                if batch:
                    self._deliver(memoryview(batch))
                else:
                    self._bell.wait()
            except Exception as error:  # a writer must not end in silence: its outlet would fill and its output be lost
                self._die(f"{self.name}: {type(error).__name__}: {error}")
        self._finish()
        self.is_ended = True

    def _take(self) -> bytes:
        """Take the oldest bytes that wait; empty when there are none."""
        with self._lock:
            size = min(self._spill_written - self._spill_read, _LARGEST_WRITE)
            if size == 0:
                if self._is_moving:
                    return b""
                gap, batch = self._pop(_LARGEST_WRITE)
                batch = gap_marker(gap) + batch if gap else batch
                self._in_hand = len(batch)
                return batch
            offset = self._spill_read
        batch = os.pread(self._spill_fd, size, offset)
        with self._lock:
            self._spill_read += len(batch)
            self._in_hand = len(batch)
            is_drained = self._spill_read == self._spill_written
        if is_drained and self._spiller:
            self._spiller.ring()  # to give the disk back
        return batch

    def _deliver(self, left: memoryview) -> None:
        """Write it all, however long that takes."""
        largest = _LARGEST_WRITE
        while left and not self.is_dead:
            began = time.monotonic()
            try:
                written = self._write(left[:largest])
            except BlockingIOError:  # our caller made the descriptor nonblocking
                poller = select.poll()
                poller.register(self._fd, select.POLLOUT)
                poller.poll(1000)
                written = 0
            except OSError as error:
                self._fail(error)
                written = 0
                if self._is_closing:
                    break
            left = left[written:]
            self.delivered_bytes += written
            self._in_hand = len(left)
            # A slow reader gets small writes, so that its progress can be seen and waited for.
            largest = _SMALLEST_WRITE if time.monotonic() - began > _SLOW_WRITE_S else min(largest * 2, _LARGEST_WRITE)
        self._in_hand = 0

    def _write(self, data: memoryview) -> int:
        return os.write(self._fd, data)

    def _fail(self, error: OSError) -> None:
        """Decide what a failed write means: wait for space, or give the reader up."""
        if error.errno in _NO_SPACE:
            self._note(f"{self.name}: {error.strerror}; trying again")
            time.sleep(_RETRY_S)
        else:
            self._die(f"{self.name}: {error.strerror}; nothing more is written there")

    def _die(self, fault: str) -> None:
        self._note(fault)
        with self._lock:
            self.is_dead = True
            self._memory.clear()
            self._held.clear()
            self._memory_bytes = self._in_hand = 0
            self._spill_read = self._spill_written
        if self._spiller:
            self._spiller.ring()

    def _finish(self) -> None:
        """Clean up when the writer ends."""

    def _spill_on(self, bell: Doorbell) -> None:
        """Be the spiller thread: move what the writer is not quick enough for from memory to disk."""
        while not self._is_closing:
            bell.wait()
            try:
                while self._spill():
                    pass
            except Exception as error:  # without a spiller output would be lost in silence: say it, and go on trying
                self._note(f"{self.name}: spilling: {type(error).__name__}: {error}")
        if self._spill_fd != -1 and not self.waiting_bytes():
            os.close(self._spill_fd)

    def _spill(self) -> bool:
        """Move one batch, or give an emptied file's space back; returns whether there may be more to do."""
        with self._lock:
            is_drained = 0 < self._spill_written == self._spill_read
            if not is_drained and (self._memory_bytes <= _HIGH_WATER or self.is_dead):
                return False
            gap, batch = (0, b"") if is_drained else self._pop(1 << 20)
            self._is_moving, self._moving_bytes = True, len(batch)
            offset = 0 if is_drained else self._spill_written
        marker = gap_marker(gap) if gap else b""
        written = self._spill_write(marker + batch, offset, is_drained)
        with self._lock:
            if written < len(marker):
                written = 0  # half a marker says nothing
            # What the disk does not take is still the oldest in memory: lost is only what comes when that is full.
            rest = batch[max(written - len(marker), 0) :]
            if rest and not self.is_dead:
                self._memory.appendleft(rest)
                self._memory_bytes += len(rest)
            if gap and not written and not self.is_dead:
                self._memory.appendleft(gap)
            self._spill_written = offset + written
            if is_drained or self.is_dead:
                self._spill_read = self._spill_written
            self._is_moving, self._moving_bytes = False, 0
        self._bell.ring()
        return not rest

    def _spill_write(self, data: bytes, offset: int, is_drained: bool) -> int:
        """Write to the spill file, or empty it; returns how many bytes the disk took."""
        written = 0
        try:
            if self._spill_fd == -1:
                self._spill_fd = _open_spill(self._spill_folder or "/tmp")  # noqa: S108
            if is_drained:
                os.ftruncate(self._spill_fd, 0)
            if offset + len(data) > self._spill_limit:
                self._note(f"{self.name}: its reader is slow and {offset} bytes wait on disk already; some output is missing")
                return 0
            while written < len(data):
                written += os.pwrite(self._spill_fd, memoryview(data)[written:], offset + written)
        except OSError as error:
            self._note(f"{self.name}: its reader is slow and spilling to {self._spill_folder} failed: {error.strerror}")
        return written


def _open_spill(folder: str) -> int:
    """Open a file without a name: it needs no tidying, not even after SIGKILL."""
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):  # NFS, overlayfs of old, FUSE
            raise
    path = f"{folder}/.spill-{os.getpid()}-{time.monotonic_ns()}"
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    os.unlink(path)
    return fd


def identify(fd: int) -> tuple[int, ...]:
    """Say which place a descriptor writes to, so that two names of one terminal share a queue and keep their order.

    Args:
        fd: The descriptor.

    Returns:
        A key that is equal for the same terminal, pipe, socket or appended file. Other files with the same inode but
        offsets of their own stay apart.
    """
    try:
        state = os.fstat(fd)
    except OSError:  # closed by our caller (``>&-``): writing will say so
        return (fd,)
    is_one_stream = stat.S_ISCHR(state.st_mode) or stat.S_ISFIFO(state.st_mode) or stat.S_ISSOCK(state.st_mode)
    return (state.st_dev, state.st_ino) if is_one_stream else (fd,)
