"""Who uses files at this moment: open descriptors, mapped files, directories, and the environment that leads to a cache.

Every process that may be read is asked; those that may not are named, because they may use anything.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import msgspec

from unsloth_watch.capture.deadline import DeadlineError, within
from unsloth_watch.capture.text import decode
from unsloth_watch.capture.waits import read_file

_READ_S = 1.0
# `environ` and `maps` take the process's mmap_lock: a process in the middle of a fault on a dead disk would keep us for ever.


class ProcessUse(msgspec.Struct, frozen=True):
    """What one process has in its hands.

    Attributes:
        pid: Process.
        uid: Its user.
        paths: Open files, working directory, root and program, by name.
        files: Device and inode of its open files.
        mapped: Files that it has mapped, by name.
        mapped_inodes: Their inodes.
        cwd: Working directory; None if unreadable.
        environment: At its start.
    """

    pid: int
    uid: int
    paths: frozenset[str] = frozenset()
    files: frozenset[tuple[int, int]] = frozenset()
    mapped: frozenset[str] = frozenset()
    mapped_inodes: frozenset[int] = frozenset()
    cwd: str | None = None
    environment: Mapping[str, str] = {}


class Usage:
    """All that could be read, ready to be asked about thousands of paths.

    Args:
        processes: Processes that were read, ourselves left out.
        unreadable: PID and user of those that were not.
    """

    def __init__(self, processes: Sequence[ProcessUse], unreadable: Sequence[tuple[int, int]]) -> None:
        self.processes = tuple(processes)
        self.unreadable = tuple(unreadable)
        self._under: dict[str, set[int]] = {}
        self._files: dict[tuple[int, int], set[int]] = {}
        self._mapped: dict[int, set[int]] = {}
        self._named: dict[str, set[int]] = {}
        for process in self.processes:
            for name in (*process.paths, *process.mapped):
                _add(self._under, name, process.pid)
            for value in process.environment.values():
                if value.startswith("/"):
                    _add(self._named, os.path.normpath(value), process.pid)
            for file in process.files:
                self._files.setdefault(file, set()).add(process.pid)
            for inode in process.mapped_inodes:
                self._mapped.setdefault(inode, set()).add(process.pid)

    def find_users(self, path: str, inodes: frozenset[tuple[int, int]]) -> set[int]:
        """Return the PIDs that have something at or below a path in use, by name or, where it is mounted elsewhere, by inode.

        Args:
            path: Real path.
            inodes: Device and inode of every file below it.
        """
        found = set(self._under.get(path, ()))
        for file in inodes:
            # A map names its device in another way than stat on overlay file systems; an inode alone may be another file's: then
            # an entry is kept without need, which harms nobody.
            found |= self._files.get(file, set()) | self._mapped.get(file[1], set())
        return found

    def find_named(self, path: str) -> set[int]:
        """Return the PIDs whose environment names a path or something below it."""
        return set(self._named.get(path, ()))


def read_usage() -> Usage:
    """Return what every process uses; about 1 ms for each on a busy machine."""
    processes, unreadable = [], []
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) == os.getpid():
            continue
        folder = f"/proc/{name}"
        try:
            uid = os.stat(folder).st_uid
        except OSError:
            continue
        if _is_kernel_thread(folder):
            continue
        try:
            processes.append(within(_READ_S, _read, int(name), uid))
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended meanwhile
        except (OSError, DeadlineError):
            unreadable.append((int(name), uid))
    return Usage(processes, unreadable)


def _add(index: dict[str, set[int]], path: str, pid: int) -> None:
    """Enter a path and all directories above it."""
    while pid not in (pids := index.setdefault(path, set())):
        pids.add(pid)
        path = os.path.dirname(path)


def _is_kernel_thread(folder: str) -> bool:
    """Whether it is a thread of the kernel: it has no memory and no program."""
    try:
        return not read_file(f"{folder}/cmdline") and not os.path.exists(f"{folder}/exe") and _has_no_memory(folder)
    except OSError:
        return False


def _has_no_memory(folder: str) -> bool:
    # Field 23 of stat is the size of the address space.
    fields = read_file(f"{folder}/stat").rpartition(b")")[2].split()
    return len(fields) > 20 and fields[20] == b"0"


def _read(pid: int, uid: int) -> ProcessUse:
    folder = f"/proc/{pid}"
    paths, files = set(), set()
    with os.scandir(f"{folder}/fd") as descriptors:
        for descriptor in descriptors:
            try:
                target = os.readlink(descriptor.path)
                if target.startswith("/"):
                    paths.add(target)
                    status = os.stat(descriptor.path)
                    files.add((status.st_dev, status.st_ino))
            except FileNotFoundError:
                continue  # closed meanwhile
    links = {name: os.readlink(f"{folder}/{name}") for name in ("cwd", "root", "exe") if _is_link(f"{folder}/{name}")}
    paths.update(target for name, target in links.items() if name != "root" or target != "/")
    mapped, inodes = set(), set()
    for line in decode(read_file(f"{folder}/maps")).splitlines():
        words = line.split(None, 5)
        if len(words) == 6 and words[5].startswith("/"):
            mapped.add(words[5])
            inodes.add(int(words[4]))
    pairs = (entry.partition(b"=") for entry in read_file(f"{folder}/environ").split(b"\0") if b"=" in entry)
    environment = {decode(name): decode(value) for name, _, value in pairs}
    return ProcessUse(
        pid, uid, frozenset(paths), frozenset(files), frozenset(mapped), frozenset(inodes), links.get("cwd"), environment
    )


def _is_link(path: str) -> bool:
    try:
        os.readlink(path)
    except FileNotFoundError:
        return False  # a zombie has none
    return True
