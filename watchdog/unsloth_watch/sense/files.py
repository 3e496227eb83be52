"""Regular files that the job has open: how far each is read or written. And who holds a GPU, and which sockets.

Nothing here may block on a dead file server: ``readlink`` of ``/proc/PID/fd/N`` and ``fdinfo`` answer from the kernel's own tables,
and a size is asked for on local file systems alone.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator

import msgspec

from unsloth_watch.model.process import ProcessRef
from unsloth_watch.model.sample import FileSample
from unsloth_watch.sense.mounts import MountTable
from unsloth_watch.sense.stat import read_once

MOST_DESCRIPTORS = 160
"""Descriptors looked at in one tick: 3 µs for one that is no file, 12 µs for one that is. A Torch process has 50 to 200, so a job
of 20 processes is gone through in a quarter of a minute, for 0.1 % of a core."""
ROUND_EVERY = 3
"""Ticks between the beginnings of two rounds of the search: a new file shows so much later, and a small job costs a third. A file
that stood still since the last look is looked at as rarely: most files of a job are logs of others and data that was read."""
_SOCKET = "socket:["
_GPU = re.compile(r"/dev/(?:nvidia\d|kfd$|dri/renderD|dxg$)")
_NO_FILES = ("/dev/", "/proc/", "/sys/", "/memfd:", "/anon_hugepage", "/SYSV", "/dmabuf:", "/[")
_O_WRITABLE = os.O_WRONLY | os.O_RDWR
_O_PATH = os.O_PATH


class _Entry(msgspec.Struct, frozen=True):
    """One descriptor of a regular file, as last seen."""

    device: int
    inode: int
    path: str
    offset: int
    size: int | None
    is_writer: bool


class FileReader:
    """Looks at the job's descriptors, at most so many a tick.

    Descriptors known to be regular files come first, in turns of half the allowance, one that stood still every ``round_every``
    ticks. The rest goes to the search for new ones, which goes round all descriptors of all processes and takes as many ticks as it
    needs.

    Args:
        most: Descriptors looked at in one tick.
        round_every: Least number of ticks from the beginning of one round of the search to the next.
    """

    def __init__(self, most: int = MOST_DESCRIPTORS, *, round_every: int = ROUND_EVERY) -> None:
        self._most = most
        self._round_every = round_every
        self._since_round = round_every
        self._mounts = MountTable()
        self._entries: dict[tuple[ProcessRef, int], _Entry] = {}
        self._tick = 0
        self._resting: dict[tuple[ProcessRef, int], int] = {}
        self._sockets: dict[ProcessRef, dict[int, int]] = {}
        self._search: Iterator[tuple[ProcessRef, int]] = iter(())
        self._refs: tuple[ProcessRef, ...] = ()
        self._unreadable: set[ProcessRef] = set()
        self._holds_gpu: dict[ProcessRef, bool] = {}
        self._gpu_seen: set[ProcessRef] = set()

    def read(self, refs: tuple[ProcessRef, ...]) -> tuple[FileSample, ...] | None:
        """Return the files that the processes have open, as far as they were found by now; None where no process may be read.

        Args:
            refs: The job's processes; zombies do no harm.
        """
        alive = set(refs)
        self._refs = refs
        self._mounts.start_round()
        self._entries = {key: entry for key, entry in self._entries.items() if key[0] in alive}
        self._sockets = {ref: held for ref, held in self._sockets.items() if ref in alive}
        self._holds_gpu = {ref: holds for ref, holds in self._holds_gpu.items() if ref in alive}
        self._unreadable &= alive
        self._gpu_seen &= alive
        self._tick += 1
        self._resting = {key: until for key, until in self._resting.items() if until > self._tick and key in self._entries}
        left = self._most
        for key in [key for key in self._entries if key not in self._resting][: self._most // 2]:
            # Taken out and put in again, so that the next ones come to the front: a round-robin without a cursor.
            before = self._entries.pop(key)
            self._look(*key)
            if self._entries.get(key) == before:
                self._resting[key] = self._tick + self._round_every
            left -= 1
        self._find_more(left, alive)
        if refs and alive == self._unreadable:
            return None
        return _merge(self._entries.values())

    def sockets(self) -> dict[ProcessRef, frozenset[int]]:
        """Return the inodes of the sockets that each process holds, of any kind, as far as was looked.

        One that was closed stays until the search comes round: no connection has its inode by then.
        """
        return {ref: frozenset(held.values()) for ref, held in self._sockets.items() if held}

    def gpu_knowledge(self) -> dict[int, bool]:
        """Return whether a process holds a GPU, by PID; a process that was not looked through entirely yet is missing."""
        return {ref.pid: holds for ref, holds in self._holds_gpu.items()}

    def _find_more(self, left: int, alive: set[ProcessRef]) -> None:
        """Go on with the search; where a round has ended and it is time, begin the next."""
        self._since_round += 1
        while left > 0:
            place = next(self._search, None)
            if place is None:
                if self._since_round < self._round_every:
                    return
                self._since_round = 0
                self._search = self._places(self._refs)
                continue
            if place not in self._entries and place[0] in alive:
                self._look(*place)
            left -= 1

    def _places(self, refs: tuple[ProcessRef, ...]) -> Iterator[tuple[ProcessRef, int]]:
        """Go through all descriptors of the processes, listing each process only when its turn comes."""
        for ref in refs:
            try:
                names = os.listdir(f"/proc/{ref.pid}/fd")
            except (FileNotFoundError, ProcessLookupError):
                continue
            except OSError:
                # Another user's process, or one that made itself undumpable.
                self._unreadable.add(ref)
                continue
            self._unreadable.discard(ref)
            numbers = set(map(int, names))
            self._sockets[ref] = {number: inode for number, inode in self._sockets.get(ref, {}).items() if number in numbers}
            self._gpu_seen.discard(ref)
            for number in numbers:
                yield ref, number
            self._holds_gpu[ref] = ref in self._gpu_seen

    def _look(self, ref: ProcessRef, number: int) -> None:
        """Look at one descriptor; remember it where it is a regular file."""
        link = f"/proc/{ref.pid}/fd/{number}"
        self._sockets.get(ref, {}).pop(number, None)
        try:
            path = os.readlink(link)
            if not path.startswith("/") or path.startswith(_NO_FILES):
                if path.startswith(_SOCKET):
                    self._sockets.setdefault(ref, {})[number] = int(path[len(_SOCKET) : -1])
                elif _GPU.match(path):
                    self._gpu_seen.add(ref)
                    self._holds_gpu[ref] = True
                return
            entry = self._read_entry(ref.pid, number, link, path)
        except OSError:
            return
        if entry is not None:
            self._entries[ref, number] = entry

    def _read_entry(self, pid: int, number: int, link: str, path: str) -> _Entry | None:
        """Return how far a descriptor has got, or None where it is a directory, a device or a mere reference (O_PATH).

        Raises:
            OSError: It is closed or gone.
        """
        info = dict(line.split(b":", 1) for line in read_once(f"/proc/{pid}/fdinfo/{number}", 1024).split(b"\n") if b":" in line)
        flags = int(info[b"flags"], 8)
        if flags & (os.O_DIRECTORY | _O_PATH):
            return None
        mount_id = int(info.get(b"mnt_id", b"-1"))
        mount = self._mounts.find(mount_id, pid)
        inode = int(info.get(b"ino", b"0"))
        size = None
        if mount is not None and mount.is_local:
            status = os.stat(link)
            if not stat.S_ISREG(status.st_mode):
                return None
            # Kernels before 5.14 leave the inode out of fdinfo.
            inode, size = inode or status.st_ino, status.st_size
        device = mount.device if mount is not None else mount_id
        return _Entry(device, inode, path, int(info[b"pos"]), size, bool(flags & _O_WRITABLE))


def _merge(entries: Iterable[_Entry]) -> tuple[FileSample, ...]:
    """Return one sample a file: the furthest offset of its descriptors."""
    files: dict[tuple[int, int, str], _Entry] = {}
    for entry in entries:
        # Without an inode (an old kernel and a network file system) the path tells files apart.
        key = (entry.device, entry.inode, "" if entry.inode else entry.path)
        other = files.get(key)
        files[key] = entry if other is None else _furthest(other, entry)
    return tuple(FileSample(e.device, e.inode, e.path, e.offset, e.size, e.is_writer) for e in files.values())


def _furthest(one: _Entry, other: _Entry) -> _Entry:
    """Return what two descriptors of one file say together."""
    return _Entry(
        one.device,
        one.inode,
        one.path,
        max(one.offset, other.offset),
        one.size if other.size is None else other.size,
        one.is_writer or other.is_writer,
    )
