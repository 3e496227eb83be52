"""The output relay: one thread takes what the command prints, at once, and hands it to outlets, a tail and the judge.

A command whose pipe is full at 64 KiB stands still and looks hung, so the reader waits for no disk, terminal or pipe.
Chunks are never split into lines here: 64 KiB chunks move 823 MB/s, line by line it would be 67.
"""

from __future__ import annotations

import _thread
import errno
import fcntl
import os
import select
import time
from collections import deque

from unsloth_watch.act.logoutlet import LOG_LIMIT, LogOutlet
from unsloth_watch.act.outlet import Outlet, identify
from unsloth_watch.act.threads import Doorbell, start_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FRESH_LIMIT = 64 << 10
"""Most bytes of new output that a snapshot carries."""
TAIL_LIMIT = 256 << 10
"""Bytes of output that are kept for the report."""

_F_SETPIPE_SZ = 1031
_F_GETPIPE_SZ = 1032
_FIONREAD = 0x541B  # as in ``termios``, which is 1 ms of import
_PIPE_BYTES = 1 << 20  # the most that /proc/sys/fs/pipe-max-size lets anyone have; 2.5 times as fast as 64 KiB
_SMALLEST_READ = 64 << 10
_LARGEST_READ = 1 << 20
_PATIENCE_S = 1.0  # an outlet without room for so long (its disk stands still) loses output instead of stopping the job
_COALESCE_S = 0.002  # 10,000 unbuffered lines/s are 500 wake-ups a second; nobody sees 2 ms
_COALESCE_BYTES = 16 << 10
_FAILING_S = 1.1  # at the end, for a log whose disk is full or gone: two more tries
_PTY_SETTLE_S = 0.02  # the kernel hands a terminal's last bytes over from a work queue, after the writer has ended


class RelaySnapshot:
    """What the relay has seen, for one tick.

    Attributes:
        total_bytes: Bytes printed so far on all streams, all attempts.
        fresh: Bytes since the previous snapshot, only the newest 64 KiB of them.
        skipped: Bytes since the previous snapshot that ``fresh`` leaves out.
        is_blocked: Whether the reader is holding back, so that the command may be waiting for us.
        lost_bytes: Bytes that an outlet had to drop so far.
        faults: What went wrong so far, one sentence each.
    """

    __slots__ = ("faults", "fresh", "is_blocked", "lost_bytes", "skipped", "total_bytes")

    def __init__(  # noqa: PLR0917 - a record
        self, total_bytes: int, fresh: bytes, skipped: int, is_blocked: bool, lost_bytes: int, faults: tuple[str, ...]
    ) -> None:
        self.total_bytes = total_bytes
        self.fresh = fresh
        self.skipped = skipped
        self.is_blocked = is_blocked
        self.lost_bytes = lost_bytes
        self.faults = faults


class _Window:
    """The newest bytes of a stream, bounded. One array: kept as chunks, a megabyte of one-byte writes would take 50."""

    __slots__ = ("_data", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()

    def add(self, chunk: bytes) -> None:
        self._data += chunk[-self._limit :]
        if len(self._data) > 2 * self._limit:
            del self._data[: -self._limit]

    def newest(self, size: int) -> bytes:
        size = min(size, self._limit)
        return bytes(self._data[-size:]) if size > 0 else b""

    def clear(self) -> None:
        self._data.clear()


class _Source:
    """One stream of the command."""

    __slots__ = ("blocked_since", "fd", "is_polled", "is_terminal", "outlets", "read_size")

    def __init__(self, fd: int, outlets: Sequence[Outlet]) -> None:
        self.fd = fd
        self.outlets = outlets
        self.read_size = _SMALLEST_READ
        self.is_polled = False
        self.is_terminal = os.isatty(fd)
        self.blocked_since: float | None = None
        os.set_blocking(fd, False)
        try:
            fcntl.fcntl(fd, _F_SETPIPE_SZ, _PIPE_BYTES)
        except OSError:  # no pipe, or this user's share of pipe memory is used up: slower, that is all
            pass

    def read(self) -> bytes | None:
        """Read what is there; None when nothing is, empty at the end."""
        try:
            chunk = os.read(self.fd, self.read_size)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.EIO:  # a pty master whose last slave was closed
                return b""
            raise
        if len(chunk) == self.read_size:
            self.read_size = min(self.read_size * 2, _LARGEST_READ)
        elif len(chunk) < _SMALLEST_READ:
            self.read_size = _SMALLEST_READ
        return chunk

    def has_more(self) -> bool:
        """Whether the pipe or terminal holds bytes that are not yet read."""
        try:
            return bool(select.select([self.fd], [], [], 0)[0]) and fcntl.ioctl(self.fd, _FIONREAD, bytes(4)) != bytes(4)
        except (OSError, ValueError):  # closed by the reader thread a moment ago
            return False

    def capacity(self) -> int:
        """Most bytes that a command which has ended can have left behind."""
        try:
            return max(fcntl.fcntl(self.fd, _F_GETPIPE_SZ), _SMALLEST_READ)
        except OSError:
            return _PIPE_BYTES


class Relay:
    """Copies a command's output; made by ``start``.

    Args:
        log_path: ``output.log``, or None for no log.
        spill_folder: Where output waits that its reader does not take.
        say_fd: Where ``say`` writes.
        log_bytes: Size at which the log is rotated.
    """

    def __init__(self, log_path: str | None, spill_folder: str, say_fd: int, log_bytes: int) -> None:
        self._spill_folder = spill_folder
        self._outlets: dict[tuple[int, ...], Outlet] = {}
        self._log = LogOutlet(log_path, log_bytes) if log_path is not None else None
        self._voice = self._outlet(say_fd)
        self._lock = _thread.allocate_lock()
        self._tail = _Window(TAIL_LIMIT)
        self._fresh = _Window(FRESH_LIMIT)
        self._total_bytes = 0
        self._seen_bytes = 0
        self._faults: list[str] = []
        self._sources: list[_Source] = []
        self._arriving: deque[_Source] = deque()
        self._is_finishing = False
        self._turns = 0
        self._is_drained = Doorbell()
        self._wake, self._waker = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._waker, False)
        self._poller = select.poll()
        self._poller.register(self._wake, select.POLLIN)

    @classmethod
    def start(
        cls,
        streams: Iterable[tuple[int, int | None]],
        log_path: str | None = None,
        *,
        spill_folder: str | None = None,
        say_fd: int = 2,
        log_bytes: int = LOG_LIMIT,
    ) -> Relay:
        """Start relaying.

        Args:
            streams: Our reading end of each stream, which becomes the relay's own, and where it is copied to (None:
                only to log, tail and snapshots). Two that are the same terminal or pipe share one queue, in order.
            log_path: ``output.log``; appended to, rotated to ``.1``.
            spill_folder: Where an unlinked file holds what a slow reader has not taken; None for the log's folder.
            say_fd: Where ``say`` writes, the supervisor's stderr.
            log_bytes: Size at which the log is rotated.

        Returns:
            The running relay; its threads never keep the process from ending.
        """
        if spill_folder is None:
            spill_folder = os.path.dirname(log_path) if log_path else os.environ.get("TMPDIR", "/tmp")  # noqa: S108
        relay = cls(log_path, spill_folder or ".", say_fd, log_bytes)
        relay.attach(streams)
        start_thread(relay._run)
        return relay

    def attach(self, streams: Iterable[tuple[int, int | None]]) -> None:
        """Take the streams of the next attempt; those of an earlier one are relayed until they end.

        Args:
            streams: As for ``start``.
        """
        for read_fd, write_fd in streams:
            outlets = [] if write_fd is None else [self._outlet(write_fd)]
            self._arriving.append(_Source(read_fd, [*outlets, *([self._log] if self._log else [])]))
        self._ring()

    def say(self, line: bytes) -> None:
        """Write a line of the supervisor's own to stderr, never in the middle of a line of the command; never blocks.

        Args:
            line: Text, with or without a line end.
        """
        self._voice.say(line.rstrip(b"\n"))
        self._ring()

    def set_raw(self, is_raw: bool) -> None:
        """Say whether our terminal is in raw mode: our own lines then need a carriage return.

        Args:
            is_raw: As ``Terminal`` has it.
        """
        self._voice.line_end = b"\r\n" if is_raw else b"\n"

    def snapshot(self) -> RelaySnapshot:
        """Say what came since the previous snapshot; never blocks."""
        with self._lock:
            total, fresh = self._total_bytes, self._fresh.newest(FRESH_LIMIT)
            skipped = total - self._seen_bytes - len(fresh)
            self._seen_bytes = total
            self._fresh.clear()
        is_blocked = any(source.blocked_since is not None and not source.is_polled for source in tuple(self._sources))
        outlets = self._all_outlets()
        faults = (*self._faults, *(fault for outlet in outlets for fault in tuple(outlet.faults)))
        return RelaySnapshot(total, fresh, skipped, is_blocked, sum(outlet.lost_bytes for outlet in outlets), faults)

    def tail(self, size: int) -> bytes:
        """Return the newest output.

        Args:
            size: Most bytes; at most 256 KiB are kept.
        """
        with self._lock:
            return self._tail.newest(size)

    def settle(self, timeout_s: float) -> None:
        """Wait until what an ended command left in its pipes is in the tail; its last words say why it ended.

        Args:
            timeout_s: Longest wait, seconds: a daemon that inherited the pipes may go on writing.
        """
        deadline = time.monotonic() + timeout_s
        if any(source.is_terminal for source in tuple(self._sources)):
            time.sleep(_PTY_SETTLE_S)
        while time.monotonic() < deadline:
            # A chunk that was taken from a pipe is in the tail when the turn that took it has ended.
            turns, is_empty = self._turns, not any(source.has_more() for source in tuple(self._sources))
            self._ring()
            while self._turns == turns and time.monotonic() < deadline:
                time.sleep(0.001)
            if is_empty:
                return

    def finish(self, timeout_s: float) -> bool:
        """Take what the pipes still hold, deliver it, and stop. Call it when the command has ended.

        Does not wait for the end of the streams: a daemon that inherited them may never close them. The relay is of no use
        afterwards; last words go to stderr directly.

        Args:
            timeout_s: Longest time in which nothing is delivered, seconds: a slow reader gets all, a stuck one is left.

        Returns:
            Whether every outlet has all that it should have.
        """
        self._is_finishing = True
        self._ring()
        is_complete = self._is_drained.wait(max(timeout_s, 1.0))
        self._voice.release_say(is_forced=True)
        outlets = self._all_outlets()
        seen, deadline = -1, time.monotonic() + timeout_s
        given_up = time.monotonic() + _FAILING_S
        while waiting := [outlet for outlet in outlets if not outlet.is_dead and outlet.waiting_bytes()]:
            if time.monotonic() > (given_up if all(outlet.is_failing for outlet in waiting) else deadline):
                break
            delivered = sum(outlet.delivered_bytes for outlet in outlets)
            if delivered != seen:
                seen, deadline = delivered, time.monotonic() + timeout_s
            time.sleep(0.002)
        for outlet in outlets:
            outlet.close()
        return is_complete and not any(outlet.lost_bytes or outlet.is_dead for outlet in outlets)

    def _all_outlets(self) -> list[Outlet]:
        return [*self._outlets.values(), *([self._log] if self._log else [])]

    def _outlet(self, fd: int) -> Outlet:
        key = identify(fd)
        if key not in self._outlets:
            name = {1: "stdout", 2: "stderr"}.get(fd, f"descriptor {fd}")
            self._outlets[key] = Outlet(name, fd, self._spill_folder)
        return self._outlets[key]

    def _ring(self) -> None:
        try:
            os.write(self._waker, b"!")
        except BlockingIOError:  # full of rings already
            pass

    def _run(self) -> None:
        """Be the reader thread."""
        last = 0.0
        while not self._is_finishing:
            try:
                size = self._turn()
                self._turns += 1
                now = time.monotonic()
                if 0 < size < _COALESCE_BYTES and now - last < 2 * _COALESCE_S:
                    time.sleep(_COALESCE_S)
                last = now
            except Exception as error:  # without a reader the command stops at a full pipe: say it, and go on reading
                self._note(error)
                time.sleep(0.1)
        try:
            self._drain()
        except Exception as error:  # the end must be reached whatever a descriptor says
            self._note(error)
        self._is_drained.ring()

    def _note(self, error: Exception) -> None:
        fault = f"relay: {type(error).__name__}: {error}"
        if fault not in self._faults:
            self._faults.append(fault)

    def _turn(self) -> int:
        """Wait for output and take it; returns how many bytes came."""
        self._welcome()
        pause_ms = self._hold_back()
        if self._voice.release_say():
            pause_ms = pause_ms or 50
        ready = {fd for fd, _ in self._poller.poll(pause_ms)}
        if self._wake in ready:
            os.read(self._wake, 4096)
        return sum(self._take(source) for source in tuple(self._sources) if source.fd in ready)

    def _welcome(self) -> None:
        """Take over sources that ``attach`` has brought."""
        while self._arriving:
            self._sources.append(self._arriving.popleft())

    def _hold_back(self) -> int | None:
        """Poll the sources whose outlets have room; returns in how many milliseconds to look again, None if all have."""
        pause_ms = None
        now = time.monotonic()
        for source in self._sources:
            full = [since for outlet in source.outlets if (since := outlet.full_since(now)) is not None]
            if not full:
                source.blocked_since = None
                is_wanted = True
            else:
                # A disk slower than the command sets the pace and nothing is lost; one that stands still costs the
                # command this patience once, and then output instead of time. Each outlet for itself: a full disk under
                # the log must not cost a slow reader of the output anything.
                source.blocked_since = source.blocked_since or now
                is_wanted = now - max(full) > _PATIENCE_S
                pause_ms = 100 if is_wanted else 1
            if is_wanted != source.is_polled:
                source.is_polled = is_wanted
                if is_wanted:
                    self._poller.register(source.fd, select.POLLIN)
                else:
                    self._poller.unregister(source.fd)
        return pause_ms

    def _take(self, source: _Source, is_last: bool = False) -> int:
        """Read one chunk and hand it on; returns its size, 0 when there was none."""
        chunk = source.read()
        if chunk is None:
            return 0
        if not chunk:
            if source.is_polled:
                self._poller.unregister(source.fd)
            os.close(source.fd)
            self._sources.remove(source)
            return 0
        for outlet in source.outlets:
            outlet.put(chunk, is_last)
        with self._lock:
            self._total_bytes += len(chunk)
            self._tail.add(chunk)
            self._fresh.add(chunk)
        return len(chunk)

    def _drain(self) -> None:
        """Take what an ended command left in its pipes, and let go of them."""
        self._welcome()
        for source in tuple(self._sources):
            left = source.capacity()
            while left > 0 and source in self._sources:
                size = self._take(source, is_last=True)
                if size == 0 and not (source.is_terminal and select.select([source.fd], [], [], _PTY_SETTLE_S)[0]):
                    break
                left -= size
        for source in self._sources:
            os.close(source.fd)
        self._sources.clear()
