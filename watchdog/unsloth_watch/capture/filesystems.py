"""The file systems that a job works on: which one is behind a path that a thread waits for, and whether it is full."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import msgspec

from unsloth_watch.capture.mount import Mount, find_mount, read_free, read_mounts
from unsloth_watch.model.evidence import MountEvidence, ProcessEvidence

LOCAL_TYPES = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "tmpfs", "ramfs", "overlay", "squashfs", "erofs"}
)
"""Types whose free space is known without asking anybody: ``statfs`` on another one may hang with its server."""
MAX_PATHS = 5
"""Paths named of one file system."""
_NO_FILES = ("/proc", "/sys", "/dev")


def find_filesystems(processes: Sequence[ProcessEvidence]) -> tuple[MountEvidence, ...]:
    """Return the file systems of the paths that threads wait on, of open files and of working directories, in that order.

    The mounts are those that the job itself sees, so that a container's paths are right. Free space is asked for through the
    process's own root directory, and only of local types.
    """
    found: dict[str, MountEvidence] = {}
    roots: dict[str, tuple[Mount, ...]] = {}
    for process in processes:
        namespace = _read_namespace(process.ref.pid)
        if namespace not in roots:
            roots[namespace] = read_mounts(process.ref.pid)
        for path in _list_paths(process):
            mount = find_mount(path, roots[namespace])
            if mount is None or mount.point in _NO_FILES or mount.type in ("proc", "sysfs", "devpts", "devtmpfs"):
                continue
            key = f"{namespace}\0{mount.point}"
            if key not in found:
                free, _ = read_free(f"/proc/{process.ref.pid}/root{mount.point}") if mount.type in LOCAL_TYPES else (None, None)
                found[key] = MountEvidence(mount.point, mount.type, mount.source, mount.is_read_only, free, (path,))
            elif path not in found[key].paths and len(found[key].paths) < MAX_PATHS:
                found[key] = msgspec.structs.replace(found[key], paths=(*found[key].paths, path))
    return tuple(found.values())


def _list_paths(process: ProcessEvidence) -> Iterable[str]:
    yield from (thread.wait_path for thread in process.threads if thread.wait_path)
    yield from (item.target.removesuffix(" (deleted)") for item in process.descriptors or () if item.target.startswith("/"))
    if process.cwd is not None:
        yield process.cwd


def _read_namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")
    except OSError:  # another user's, or ended: its own table is tried
        return f"of PID {pid}"
