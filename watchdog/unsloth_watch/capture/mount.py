"""Which file system a path lies on, and how much is free there."""

from __future__ import annotations

import os
import re

import msgspec

NETWORK_TYPES = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "lustre", "gpfs", "beegfs", "afs", "glusterfs", "virtiofs"})
"""File systems on which locks and writes may wait for another machine."""


class Mount(msgspec.Struct, frozen=True):
    """One mount: where, of which type, whether it is read-only, and what is behind it."""

    point: str
    type: str
    is_read_only: bool
    source: str = ""


def read_mounts(pid: int | str = "self") -> tuple[Mount, ...]:
    """Return the mounts that a process sees, in the kernel's order; empty if unreadable."""
    try:
        with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return ()
    mounts = []
    for line in lines:
        left, separator, right = line.partition(" - ")
        words, kinds = left.split(), right.split()
        if separator and len(words) >= 6 and kinds:
            options = set(words[5].split(",")) | set(kinds[2].split(",") if len(kinds) > 2 else ())
            mounts.append(Mount(_unescape(words[4]), kinds[0], "ro" in options, _unescape(kinds[1]) if len(kinds) > 1 else ""))
    return tuple(mounts)


def find_mount(path: str, mounts: tuple[Mount, ...]) -> Mount | None:
    """Return the mount that an absolute path lies on: the longest match, and of equals the last, which covers the others."""
    best = None
    for mount in mounts:
        is_above = mount.point in {"/", path} or path.startswith(mount.point + "/")
        if is_above and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def read_free(path: str) -> tuple[int | None, int | None]:
    """Return the free bytes and inodes for an ordinary user; None where the file system does not say.

    File systems without a table of inodes (btrfs) report 0 of 0: that is no shortage.
    """
    try:
        status = os.statvfs(path)
    except OSError:
        return None, None
    return status.f_bavail * status.f_frsize, status.f_favail if status.f_files else None


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
