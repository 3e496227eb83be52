"""Which file system a mount id belongs to, and whether asking it for a file's size can block."""

from __future__ import annotations

import os

LOCAL = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "jfs", "reiserfs", "tmpfs", "ramfs", "rootfs", "overlay",
     "aufs", "squashfs", "erofs", "iso9660", "vfat", "exfat", "ntfs3", "hugetlbfs", "devtmpfs"}
)  # fmt: skip
"""File systems that answer ``stat`` of an open file from memory. An unknown one may be on a network."""
REFRESH_EVERY = 60
"""Ticks after which everything is read anew, as mount ids are given out again after an unmount."""


class Mount:
    """A mount.

    Attributes:
        device: Device number of its file system.
        is_local: Whether its files can be asked for their size without a risk of blocking.
    """

    __slots__ = ("device", "is_local")

    def __init__(self, device: int, is_local: bool) -> None:
        self.device = device
        self.is_local = is_local


class MountTable:
    """Mounts by id, of our own mount namespace and, for ids that are not in it, of the process that uses them."""

    def __init__(self) -> None:
        self._mounts: dict[int, Mount] = {}
        self._asked: set[int] = set()
        self._rounds = REFRESH_EVERY

    def start_round(self) -> None:
        """Begin a tick: unknown ids may be asked for again, and all of them from time to time."""
        self._asked.clear()
        self._rounds += 1
        if self._rounds >= REFRESH_EVERY:
            self._rounds = 0
            self._mounts = _read_mounts("self")

    def find(self, mount_id: int, pid: int) -> Mount | None:
        """Return the mount, or None where neither we nor that process can see it (a detached mount)."""
        mount = self._mounts.get(mount_id)
        if mount is None and pid not in self._asked:
            # Once a process and round: a container's table is another one, and may have hundreds of lines.
            self._asked.add(pid)
            self._mounts = {**_read_mounts(str(pid)), **_read_mounts("self"), **self._mounts}
            mount = self._mounts.get(mount_id)
        return mount


def _read_mounts(pid: str) -> dict[int, Mount]:
    """Return the mounts that one process sees; none where they cannot be read."""
    try:
        # To its end: one read of it stops at 4 kB, however large the buffer.
        with open(f"/proc/{pid}/mountinfo", "rb") as file:
            text = file.read()
    except OSError:
        return {}
    found = {}
    for line in text.decode("utf-8", "replace").split("\n"):
        # 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw: any number of optional fields before the dash.
        left, dash, right = line.partition(" - ")
        fields = left.split(" ", 3)
        if dash and len(fields) == 4:
            major, _, minor = fields[2].partition(":")
            found[int(fields[0])] = Mount(os.makedev(int(major), int(minor)), right.split(" ", 1)[0] in LOCAL)
    return found
