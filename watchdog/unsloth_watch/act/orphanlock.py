"""Moves lock files aside whose owner is dead: between attempts, or under a waiter that asks by O_EXCL; never one that is held.

Two supervisors may find the same file at once. Each takes the directory's own flock first, so that the second one sees what the
first has left: perhaps a new lock of a living owner.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from unsloth_watch.act.change import Change, MendError
from unsloth_watch.act.guardian import read_start_ticks
from unsloth_watch.act.quarantine import quarantine

_SETTLED_S = 2.0
"""Youngest age of a lock file that names nobody: between making it and writing its owner into it pass milliseconds."""
_REMOTE = ("nfs", "cifs", "smb", "fuse", "9p", "ceph", "lustre", "gpfs", "beegfs", "afs", "glusterfs", "virtiofs")
"""Beginnings of file system types that other machines may share: who holds a lock there cannot be seen from here."""
_FIRST_NAMESPACE = "pid:[4026531836]"
"""The machine's own PID namespace (PROC_PID_INIT_INO of the kernel): from it every process is seen."""
_MOST_TEXT = 1024


def release(path: str, quarantine_dir: str) -> Change:
    """Move an orphaned lock file into the quarantine.

    Raises:
        MendError: Somebody holds it or may hold it: it is open for writing, names a living process or another host, lies on a
            shared file system, is not settled yet, or a process that may be its owner cannot be asked.
        OSError: It cannot be moved.
    """
    with _turn_at(path):
        seen = _look_at(path)
        _check_owner(path, seen)
        return _move(path, seen, quarantine_dir)


def set_aside(path: str, quarantine_dir: str, *, keep: Iterable[str] = ()) -> Change:
    """Move a regular file into the quarantine, unless it names an owner or a process has it open; between attempts.

    It may be a lock, and somebody else's job may have taken it since it was found to be an orphan.

    Args:
        path: Absolute path.
        quarantine_dir: Where it goes.
        keep: As for ``quarantine``.

    Raises:
        MendError: It is in use, or may not be moved.
        OSError: It cannot be moved.
    """
    with _turn_at(path):
        seen = _look_at(path)
        _check_place(path)
        _check_named(path, seen)
        # Nobody of the job lives, so no waiter opens it for an instant; torch's FileBaton holds it open for reading only.
        _check_unused(path, seen, counts_readers=True)
        return _move(path, seen, quarantine_dir, keep)


@contextmanager
def _turn_at(path: str) -> Iterator[None]:
    """Be the only supervisor at work in a directory.

    Raises:
        MendError: Another one is.
    """
    directory = os.path.dirname(path)
    turn = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise MendError(f"{path} stays: another process is at work in {directory}") from error
    finally:
        os.close(turn)


def _look_at(path: str) -> os.stat_result:
    try:
        status = os.lstat(path)
    except FileNotFoundError as error:
        raise MendError(f"{path} is not there any more") from error
    if not stat.S_ISREG(status.st_mode):
        raise MendError(f"{path} stays: it is no regular file")
    return status


def _check_unused(path: str, status: os.stat_result, *, counts_readers: bool = False) -> None:
    holder = find_holder(os.path.basename(path), status, counts_readers=counts_readers)
    if holder is not None:
        raise MendError(f"{path} stays: {holder}")


def _check_owner(path: str, status: os.stat_result) -> None:
    """Raise where the file may have an owner."""
    _check_place(path)
    owner = _check_named(path, status)
    if owner is None and time.time() - status.st_mtime < _SETTLED_S:
        raise MendError(f"{path} stays: it has only just been made")
    _check_unused(path, status)


def _check_place(path: str) -> None:
    """Raise where somebody whom we cannot see may be the owner."""
    doubt = doubt_place(*find_mount(os.path.realpath(path)), sees_all=os.readlink("/proc/self/ns/pid") == _FIRST_NAMESPACE)
    if doubt is not None:
        raise MendError(f"{path} stays: {doubt}")


def _check_named(path: str, status: os.stat_result) -> int | None:
    """Return the PID that a file names, if it names one; raise where that lives or is of another host, and so cannot be asked."""
    owner, host = read_owner(path)
    if host is not None and host.partition("?")[0] != socket.gethostname():
        raise MendError(f"{path} stays: it names the host {host}")
    if owner is not None and has_lived(owner, status.st_mtime):
        raise MendError(f"{path} stays: its owner, PID {owner}, lives")
    return owner


def _move(path: str, seen: os.stat_result, quarantine_dir: str, keep: Iterable[str] = ()) -> Change:
    change = quarantine(path, quarantine_dir, keep=keep)
    assert change.after is not None
    _check_moved(change.after, seen, path)
    return change


def _check_moved(kept: str, seen: os.stat_result, path: str) -> None:
    """Put the file back where it is not the one that was looked at: somebody replaced it in that instant.

    Raises:
        MendError: It was replaced.
    """
    now = os.lstat(kept)
    if (now.st_size, now.st_mtime_ns) == (seen.st_size, seen.st_mtime_ns) and (
        now.st_dev != seen.st_dev or now.st_ino == seen.st_ino
    ):
        return
    try:
        os.link(kept, path)  # never over a file that is there by now
    except OSError:
        pass
    raise MendError(f"{path} was replaced while it was moved; what was moved is in {kept}")


def read_owner(path: str) -> tuple[int | None, str | None]:
    """Return the PID and the host that a lock file names; None for what it does not."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        words = os.read(fd, _MOST_TEXT).decode("utf-8", "replace").split()
    finally:
        os.close(fd)
    if not words or not words[0].isdecimal() or int(words[0]) >= 1 << 31:
        return None, None
    return int(words[0]), words[1] if len(words) > 1 else None


def has_lived(pid: int, wall: float) -> bool:
    """Whether the process of that number lives and did so at a moment (Unix seconds): a number may have been given anew since."""
    ticks = read_start_ticks(pid)
    if ticks is None:
        return False
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    # A second of doubt for the clock's own steps.
    return boot + ticks / os.sysconf("SC_CLK_TCK") <= wall + 1.0


def find_holder(name: str, status: os.stat_result, *, counts_readers: bool) -> str | None:
    """Return who has a file open, as a phrase, or who might and could not be asked; None where nobody has.

    A waiter of filelock's opens it for an instant too, to read who owns it, while its owner holds it open for writing. Only files
    of that name are asked what they are: the file system of any other may not answer.

    Args:
        name: The file's own name.
        status: What it is.
        counts_readers: Whether to count who has it open for reading only.
    """
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            fds = os.listdir(f"/proc/{entry}/fd")
        except PermissionError:
            # Only a process of the file's owner made it. Init is often closed even to root, and owns no lock.
            if entry != "1" and _uid_of(entry) == status.st_uid:
                return f"PID {entry} of its owner cannot be asked"
            continue
        except OSError:
            continue
        for fd in fds:
            try:
                if os.path.basename(os.readlink(f"/proc/{entry}/fd/{fd}")) != name:
                    continue
                other = os.stat(f"/proc/{entry}/fd/{fd}")
                is_it = (other.st_dev, other.st_ino) == (status.st_dev, status.st_ino)
                if is_it and (counts_readers or _is_writing(entry, fd)):
                    return f"PID {entry} has it open"
            except OSError:
                continue
    return None


def _is_writing(pid: str, fd: str) -> bool:
    with open(f"/proc/{pid}/fdinfo/{fd}") as file:
        return next(int(line.split()[1], 8) & os.O_ACCMODE for line in file if line.startswith("flags:")) != os.O_RDONLY


def _uid_of(pid: str) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def doubt_place(kind: str | None, place: str, *, sees_all: bool) -> str | None:
    """Return why somebody whom we cannot see may use a mount, None where nobody can.

    Args:
        kind: Type of its file system; None if unknown.
        place: Where it is mounted.
        sees_all: Whether we see every process of the machine. In a container others may share what is mounted into it.
    """
    if kind is None or kind.startswith(_REMOTE):
        return f"it lies on {kind or 'an unknown file system'}, which other machines may use"
    if not sees_all and place != "/":
        return f"it lies on {place}, which other containers may use"
    return None


def find_mount(path: str) -> tuple[str | None, str]:
    """Return the type and the place of the mount that holds a path; None for the type where it cannot be known."""
    found, longest = None, ""
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            words = line.split(" ")
            # The kernel writes blanks and the like as three octal digits.
            place = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), words[1]).rstrip("/")
            if (path == place or path.startswith(place + "/")) and len(place) >= len(longest):
                found, longest = words[2], place
    return found, longest or "/"
