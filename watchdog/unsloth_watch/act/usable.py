"""Makes a directory of the job usable: there, and writable for the user who runs the job."""

from __future__ import annotations

import os
import shlex
import stat

from unsloth_watch.act.change import Change, MendError
from unsloth_watch.model.process import ProcessRef


def make_usable(path: str, ref: ProcessRef) -> tuple[Change, ...]:
    """Make a missing directory in an existing one, or give its owner back the right to write it.

    Args:
        path: Absolute path.
        ref: The process that needs it: what is made belongs to its user.

    Raises:
        MendError: It cannot be made so: something else is there, its parent is missing, it belongs to another user, it is
            usable already, or the process sees other file systems than we do.
        OSError: The file system refuses.
    """
    owner = os.stat(f"/proc/{ref.pid}")
    if os.readlink(f"/proc/{ref.pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt"):  # a container's path is another place here
        raise MendError(f"{path} stays: PID {ref.pid} has file systems of its own")
    if not os.path.lexists(path):
        parent = os.path.dirname(path)
        if parent == "/" or not os.path.isdir(parent):
            raise MendError(f"{path} is not made: only one missing directory in an existing one is")
        os.mkdir(path, 0o777 & ~_read_umask(ref.pid))
        if os.geteuid() == 0 and owner.st_uid != 0:
            os.chown(path, owner.st_uid, owner.st_gid)
        return (Change(path, "directory", None, path, f"rmdir {shlex.quote(path)}"),)
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode):
        raise MendError(f"{path} stays: it is no directory")
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != owner.st_uid:
        raise MendError(f"{path} stays: it belongs to user {status.st_uid}, not to the job's user {owner.st_uid}")
    if mode & stat.S_IRWXU == stat.S_IRWXU:
        raise MendError(f"{path} stays: its owner may write it already; look at its file system")
    os.chmod(path, mode | stat.S_IRWXU)
    return (Change(path, "mode", f"{mode:o}", f"{mode | stat.S_IRWXU:o}", f"chmod {mode:o} {shlex.quote(path)}"),)


def _read_umask(pid: int) -> int:
    """Return the umask of a process; the strictest where it cannot be read."""
    try:
        with open(f"/proc/{pid}/status") as file:
            return next(int(line.split()[1], 8) for line in file if line.startswith("Umask:"))
    except (OSError, StopIteration):
        return 0o077
