"""Deletes entries of a cache in two steps: aside by one rename, so that nobody finds it any more, and then for good.

Between the two the caller looks once more who has it open; what turned out to be in use goes back to its place unharmed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import re
import shutil
from collections.abc import Iterable

from unsloth_watch.act.change import MendError

ASIDE = ".unsloth-watch-prune-"
"""Beginning of the name of what is set aside."""


def check_top(top: str, keep: Iterable[str] = ()) -> str:
    """Return the real path of a cache whose entries may be deleted.

    Args:
        top: The cache's directory.
        keep: Directories that are no cache, nor is anything that holds them.

    Raises:
        MendError: It is the root or the home directory, holds one of them or a kept directory, or is no directory.
    """
    real = os.path.realpath(top)
    if not os.path.isabs(top) or not os.path.isdir(real):
        raise MendError(f"{top} is left alone: it is no directory")
    for kept in ("/", os.path.expanduser("~"), _home_of_record(), *keep):
        other = os.path.realpath(kept)
        if real == other or other.startswith(real.rstrip("/") + "/"):
            raise MendError(f"{top} is left alone: {'it is' if real == other else 'it holds'} {other}, which is no cache")
    return real


def _home_of_record() -> str:
    """Return the home directory that the user database names, whatever ``HOME`` says."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return "/"


class Discard:
    """One entry on its way out.

    Args:
        path: Real path of the entry, a directory.
        top: Real path of the cache, as `check_top` returned it.
        files: Files elsewhere below the cache that go with it.
        marker: A file in it whose lock users hold; empty for none.

    Raises:
        MendError: It does not lie below the cache, is a link or a mount point, its marker's lock is held, or another pruning is
            about to delete it.
        OSError: It cannot be renamed; it is then untouched.
    """

    def __init__(self, path: str, top: str, files: Iterable[str] = (), marker: str = "") -> None:
        self.path = path
        self._files = tuple(files)
        self._locks: list[int] = []
        self._top = top
        if not os.path.isdir(path) or os.path.realpath(path) != path:
            raise MendError(f"{path} stays: it is a link or no directory")
        mounted = _find_mount(path)
        if mounted is not None:
            raise MendError(f"{path} stays: {mounted} is mounted there")
        name = os.path.basename(path)
        self._aside = name if name.startswith(ASIDE) else f"{ASIDE}{os.urandom(4).hex()}-{name}"
        self._parent = self._open_parent(path)
        try:
            # What a crash left aside is taken up by the next; what a living one set aside a moment ago looks the same.
            self._locks.append(_take(path, os.O_RDONLY | os.O_DIRECTORY, "another pruning deletes it"))
            if marker and os.path.lexists(os.path.join(path, marker)):
                self._locks.append(_take(os.path.join(path, marker), os.O_RDWR, "a supervisor uses it"))
            if self._aside != name:
                os.rename(name, self._aside, src_dir_fd=self._parent, dst_dir_fd=self._parent)
        except (MendError, OSError):
            self._release()
            raise

    @property
    def aside(self) -> str:
        """Where it lies now."""
        return os.path.join(os.path.dirname(self.path), self._aside)

    def put_back(self) -> None:
        """Undo the first step.

        Raises:
            OSError: Somebody made the entry anew meanwhile; both stay.
        """
        try:
            if self.aside != self.path:
                os.rename(self._aside, os.path.basename(self.path), src_dir_fd=self._parent, dst_dir_fd=self._parent)
        finally:
            self._release()

    def finish(self) -> None:
        """Delete it for good.

        Raises:
            MendError: A file that goes with it does not lie in the cache any more.
            OSError: Part of it could not be deleted; it stays aside, and the next pruning takes it up.
        """
        try:
            for file in self._files:
                self._unlink(file)
            # Through the descriptor: whatever is renamed or linked above it meanwhile, it is this directory that is meant.
            shutil.rmtree(f"/proc/self/fd/{self._parent}/{self._aside}")
        finally:
            self._release()

    def _unlink(self, file: str) -> None:
        parent = self._open_parent(file)
        try:
            os.unlink(os.path.basename(file), dir_fd=parent)
        except FileNotFoundError:
            pass  # somebody else was faster
        finally:
            os.close(parent)

    def _open_parent(self, path: str) -> int:
        """Return a descriptor of the directory that holds a path.

        Raises:
            MendError: It does not lie in the cache, once all links are followed.
        """
        above = os.path.dirname(path)
        parent = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if os.readlink(f"/proc/self/fd/{parent}") != above or not (above + "/").startswith(self._top.rstrip("/") + "/"):
            os.close(parent)
            raise MendError(f"{path} stays: it does not lie in {self._top}")
        return parent

    def _release(self) -> None:
        os.close(self._parent)
        while self._locks:
            os.close(self._locks.pop())


def _find_mount(path: str) -> str | None:
    """Return a mount point at or below a path: what is mounted there would be deleted with it.

    Raises:
        OSError: The mounts cannot be read.
    """
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), line.split(" ")[4])
            if point == path or point.startswith(path + "/"):
                return point
    return None


def _take(path: str, flags: int, who: str) -> int:
    """Return a descriptor with the exclusive lock of a marker or a directory.

    Raises:
        MendError: Somebody holds it; ``who`` says what that means.
        OSError: It cannot be opened or locked.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        place = path if flags & os.O_DIRECTORY else os.path.dirname(path)
        raise MendError(f"{place} stays: {who}") from None
    except OSError as error:
        # NFS locks for writing only what is open for writing, which no directory is: there each pruning is on its own.
        if flags & os.O_DIRECTORY and error.errno in {errno.EBADF, errno.EOPNOTSUPP, errno.ENOLCK}:
            return descriptor
        os.close(descriptor)
        raise
    return descriptor
