"""A control group for the job alone, where one was delegated to us: one write ends everybody in it, fork storms included.

On the launch path: imports nothing heavy. Source: ``cgroup.kill`` of the kernel's cgroup-v2 document (Linux 5.14), and systemd's
"Control Group APIs and Delegation" for what may be touched.
"""

from __future__ import annotations

import os

_MARK = "user.delegate"
"""Extended attribute by which systemd (251 and later) says that a group is its service's own."""


class JobGroup:
    """The group of one attempt.

    Attributes:
        path: Its directory.
    """

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def kill(self) -> bool:
        """SIGKILL everybody in the group and below; False where it is gone, or holds nobody."""
        try:
            with open(os.path.join(self.path, "cgroup.events"), encoding="ascii") as stream:
                if "populated 0" in stream.read():
                    return False
            with open(os.path.join(self.path, "cgroup.kill"), "w", encoding="ascii") as stream:
                stream.write("1")
        except OSError:  # taken away by somebody; the walk through the tree does it too
            return False
        return True

    def remove(self) -> None:
        """Remove the group and what the job made below it; stays while somebody is in it."""
        for folder, _, _ in os.walk(self.path, topdown=False):
            try:
                os.rmdir(folder)
            except OSError:  # somebody unkillable is in it; systemd clears it with the service
                return


def find_delegated(proc: str = "/proc/self") -> str | None:
    """Return the directory of our own control group if it was given to us to divide, None if it is somebody else's.

    Args:
        proc: Our directory in /proc.
    """
    own = _read_own(f"{proc}/cgroup")
    mounted = _find_mount(f"{proc}/mountinfo") if own is not None else None
    if own is None or mounted is None:
        return None
    path = os.path.normpath(mounted + "/" + own)
    if not os.access(path, os.W_OK) or not os.path.exists(os.path.join(path, "cgroup.kill")):
        return None
    if _is_marked(path):
        return path
    # A user's manager marks nothing before systemd 254, but what it manages was delegated to it, and so to this user, as a whole.
    above = os.path.dirname(path)
    while len(above) > len(mounted):
        if _is_marked(above):
            return path if os.stat(path).st_uid == os.geteuid() else None
        above = os.path.dirname(above)
    return None


def _is_marked(path: str) -> bool:
    try:
        return os.getxattr(path, _MARK) == b"1"
    except OSError:  # not delegated, or not by systemd: not ours to divide
        return False


def make_group(attempt: int) -> JobGroup | None:
    """Return a new group for an attempt; None where none may be made.

    Args:
        attempt: Its number.
    """
    parent = find_delegated()
    if parent is None:
        return None
    path = os.path.join(parent, f"unsloth-watch-{os.getpid()}-{attempt}")
    try:
        os.mkdir(path)
    except OSError:  # a limit of groups (cgroup.max.descendants): the job does without
        return None
    return JobGroup(path)


def _read_own(path: str) -> str | None:
    """Return our place in the unified hierarchy."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            lines = stream.read().splitlines()
    except OSError:
        return None
    return next((line[3:] for line in lines if line.startswith("0::/") and not line.startswith("0::/..")), None)


def _find_mount(path: str) -> str | None:
    """Return where the unified hierarchy is mounted, from its own root on."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            for line in stream:
                fields = line.split()
                if "cgroup2" in fields[fields.index("-") :][:2] and fields[3] == "/":
                    return fields[4]
    except (OSError, ValueError):
        pass
    return None
