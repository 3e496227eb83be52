"""Makes room in a full pipe whose reader is held up, so that its writer goes on; every byte still reaches the reader, in order.

First the pipe itself is widened, which changes nothing for either side. Where that is not enough, and the reader cannot read before
the writer has ended, the reader is held still while the bytes go to a file, and gets them back once the writer has ended.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import struct
import termios
import threading
import time
from collections.abc import Callable, Collection

from unsloth_watch.act.change import Change, MendError
from unsloth_watch.act.guardian import read_start_ticks
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.model.repair import Target

MOST_BYTES = 1 << 30
"""Most bytes kept of one pipe: beyond, its writer blocks again, and the judge decides."""
_DEFAULT_MOST = 1 << 20
_REFILL_S = 1.0
"""How long a widened pipe is watched: who was blocked on it writes a megabyte in milliseconds."""
_LOOK_S = 0.05
_CHUNK = 1 << 16


def relieve(
    target: Target, members: Collection[int], keep_dir: str | None, complain: Callable[[str], None]
) -> tuple[Change, Drain | None]:
    """Widen a full pipe; drain it where that is not enough.

    Args:
        target: The pipe, by its reader's descriptor, and its writer.
        members: PIDs of the job; a pipe that anybody else holds is left alone.
        keep_dir: Where drained bytes are kept; None where the pipe must not be drained: its reader may read at any time.
        complain: Told in a thread what goes wrong later, in one sentence.

    Returns:
        What was changed, and what keeps the bytes where the pipe is drained.

    Raises:
        MendError: It is another pipe by now, not full, also held outside of the job, or full again and may not be drained.
        OSError: The kernel refuses.
    """
    name = target.name
    end = _open_end(target, os.O_RDONLY)
    try:
        strangers = find_strangers(name, members)
        if strangers:
            raise MendError(f"{name} stays as it is: PID {strangers[0]}, which is not of the job, holds it too")
        before = fcntl.fcntl(end, fcntl.F_GETPIPE_SZ)
        if not is_full(end, before):
            raise MendError(f"{name} is no longer full")
        after = _widen(end, before)
        whose = f"{name} from PID {target.writer} to PID {target.process}"
        if after > before and not _fills_up(end, after):
            return Change(whose, "pipe", f"{before} B", f"{after} B", ""), None
        if keep_dir is None:
            raise MendError(f"{name} is full again at {after} B, and nothing is taken out of it: its reader may read at any time")
    finally:
        os.close(end)
    drain = Drain(target, keep_dir, complain)
    drain.start()
    return Change(whose, "drain", f"{after} B, full", drain.path, ""), drain


def find_strangers(name: str, members: Collection[int]) -> list[int]:
    """Return the processes outside of the job, ourselves not counted, that hold a pipe, as far as they can be asked."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdecimal() or int(entry) in members or int(entry) == os.getpid():
            continue
        try:
            fds = os.listdir(f"/proc/{entry}/fd")
        except OSError:  # another user's: a pipe of this job is not handed to those
            continue
        for fd in fds:
            try:
                if os.readlink(f"/proc/{entry}/fd/{fd}") == name:
                    found.append(int(entry))
                    break
            except OSError:
                continue
    return found


def is_full(end: int, size: int) -> bool:
    """Whether a writer blocks: less than a page is left (a write of up to a page goes in whole or not at all)."""
    return _count(end) > size - 2 * 4096


def _count(end: int) -> int:
    """Return how many bytes are in a pipe."""
    number: int = struct.unpack("i", fcntl.ioctl(end, termios.FIONREAD, b"\0\0\0\0"))[0]
    return number


def _open_end(target: Target, mode: int) -> int:
    """Open an end of a pipe through a process that holds one; nobody's own descriptor is touched.

    Raises:
        MendError: It is another thing by now, or not to be had.
    """
    reader, name = target.process, target.name
    try:
        end = os.open(f"/proc/{reader.pid}/fd/{target.fd}", mode | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise MendError(f"{name} stays as it is: PID {reader.pid} does not let us reach it ({error.strerror})") from error
    if os.readlink(f"/proc/self/fd/{end}") != name or read_start_ticks(reader.pid) != reader.start_ticks:
        os.close(end)
        raise MendError(f"{name} is no longer held by PID {reader.pid}")
    return end


def _widen(end: int, size: int) -> int:
    """Widen a pipe to what every user is allowed; return its size, the same where the kernel has no more to give."""
    try:
        with open("/proc/sys/fs/pipe-max-size") as file:
            most = int(file.read())
    except (OSError, ValueError):
        most = _DEFAULT_MOST
    if most <= size:
        return size
    try:
        return fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, most)
    except OSError:  # EPERM beyond fs.pipe-user-pages-soft, ENOMEM
        return size


def _fills_up(end: int, size: int) -> bool:
    deadline = time.monotonic() + _REFILL_S
    while time.monotonic() < deadline:
        if is_full(end, size):
            return True
        time.sleep(_LOOK_S)
    return False


class Drain:
    """Keeps what a pipe's writer writes until the writer ends, then gives it back to the reader, in a daemon thread.

    The reader is stopped meanwhile: it would otherwise wake at the writer's end and read the newest bytes before the older ones.
    It can do nothing but wait for that end anyway.

    Args:
        target: The pipe, by its reader's descriptor, and its writer.
        keep_dir: Where the bytes go; they stay there as evidence.
        complain: Told what goes wrong.

    Attributes:
        path: The file.
        moved_at: Monotonic seconds at which bytes last came.
        is_done: Whether the reader has been let go.

    Raises:
        MendError: An end cannot be had, or one of the two has ended.
        OSError: The file cannot be made.
    """

    def __init__(self, target: Target, keep_dir: str, complain: Callable[[str], None]) -> None:
        reader, writer, name = target.process, target.writer, target.name
        assert writer is not None
        self._reader, self._name, self._complain = reader, name, complain
        os.makedirs(keep_dir, mode=0o700, exist_ok=True)
        self.path = os.path.join(keep_dir, f"pipe-{writer.pid}-to-{reader.pid}-{name[6:-1]}.bytes")
        self.moved_at = time.monotonic()
        self.is_done = False
        self._rest = b""
        self._fds: dict[str, int] = {}
        try:
            self._fds["writer"] = _hold(writer, name)
            self._fds["reader"] = _hold(reader, name)
            self._fds["out"] = _open_end(target, os.O_RDONLY)
            # Held from the start: the reader sees no end of file before it has everything.
            self._fds["into"] = _open_end(target, os.O_WRONLY)
            self._fds["kept"] = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except BaseException:  # whatever it was goes on to the caller; the descriptors do not stay open
            self._close()
            raise

    def start(self) -> None:
        """Stop the reader, and begin.

        Raises:
            MendError: The reader may not be stopped.
        """
        try:
            signal.pidfd_send_signal(self._fds["reader"], signal.SIGSTOP)
        except OSError as error:
            self._close()
            raise MendError(f"{self._name} stays as it is: PID {self._reader.pid} cannot be held: {error.strerror}") from error
        threading.Thread(target=self._run, name="unsloth-watch drain", daemon=True).start()

    def _run(self) -> None:
        offset = 0
        try:
            try:
                self._absorb()
            finally:
                # Whatever happened, the reader goes on, and finds its oldest bytes first: also where the file could take no more.
                self._take_rest()
                self._close("out")
                try:
                    offset = self._give_back(0, is_first=True)
                finally:
                    self.is_done = True
                    signal.pidfd_send_signal(self._fds["reader"], signal.SIGCONT)
            self._give_back(offset, is_first=False)
        except ProcessLookupError:  # the reader has ended, and needs nothing
            pass
        except OSError as error:
            self._complain(f"what was kept of {self._name} could not all be given back ({error.strerror}); it is in {self.path}")
        finally:
            self._close()

    def _absorb(self) -> None:
        """Take everything out of the pipe until its writer has ended, or its reader; what the file does not take stays there."""
        poller = select.poll()
        for name in ("writer", "reader", "out"):
            poller.register(self._fds[name], select.POLLIN)
        total, is_polled = 0, True
        while True:
            ready = {fd for fd, _ in poller.poll()}
            # Read after every poll, also after the one that tells of the writer's end: its last words lie in the pipe.
            while total < MOST_BYTES:
                try:
                    piece = os.read(self._fds["out"], _CHUNK)
                except BlockingIOError:
                    break
                self._rest = _write_most(self._fds["kept"], piece)
                total += len(piece)
                self.moved_at = time.monotonic()
                if self._rest:  # as where enough is kept: the writer blocks again, and the judge decides
                    self._complain(f"{self.path} takes no more of {self._name}, so its writer waits again")
                    total = MOST_BYTES
            if ready & {self._fds["writer"], self._fds["reader"]}:
                return
            if total >= MOST_BYTES and is_polled:
                is_polled = False
                poller.unregister(self._fds["out"])

    def _take_rest(self) -> None:
        """Take what is still in the pipe behind what was kept into memory, a megabyte at most: a pipe holds no more."""
        try:
            while piece := os.read(self._fds["out"], _CHUNK):
                self._rest += piece
        except OSError:  # it is empty (EAGAIN); whatever else it says, the reader is let go next
            pass

    def _read_kept(self, offset: int) -> bytes:
        """Return the next bytes to give back: those in the file, then those that it could not take."""
        size = os.fstat(self._fds["kept"]).st_size
        return os.pread(self._fds["kept"], _CHUNK, offset) if offset < size else self._rest[offset - size :][:_CHUNK]

    def _give_back(self, offset: int, *, is_first: bool) -> int:
        """Write what was kept from ``offset`` into the pipe; return how far it came. The first time it never waits."""
        poller = select.poll()
        poller.register(self._fds["into"], select.POLLOUT)
        while piece := self._read_kept(offset):
            try:
                offset += os.write(self._fds["into"], piece)
            except BlockingIOError:
                if is_first:
                    break
                poller.poll()
            except OSError as error:
                if error.errno == errno.EPIPE:  # the reader does not want it
                    break
                raise
        return offset

    def _close(self, *names: str) -> None:
        """Close the named descriptors, all without a name."""
        for name in names or tuple(self._fds):
            os.close(self._fds.pop(name))


def _hold(ref: ProcessRef, name: str) -> int:
    """Return a pidfd of a process.

    Raises:
        MendError: It has ended.
    """
    try:
        pidfd = os.pidfd_open(ref.pid)
    except OSError as error:
        raise MendError(f"{name} stays as it is: PID {ref.pid} cannot be reached ({error.strerror})") from error
    if read_start_ticks(ref.pid) != ref.start_ticks:
        os.close(pidfd)
        raise MendError(f"{name} stays as it is: PID {ref.pid} has ended")
    return pidfd


def _write_most(fd: int, data: bytes) -> bytes:
    """Write to a file; return what it does not take: its disk is full, or as large as it may be."""
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        pass
    return data
