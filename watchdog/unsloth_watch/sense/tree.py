"""The job's processes: everything below the anchors, and everything that was below them and still lives.

New processes are found by the kernel's ``children`` files, of every task, as any thread may fork. That costs 10 µs a *thread*, so
the walk is left out while nothing can have been born: ``/proc/loadavg`` ends with the PID that was given out last in this PID
namespace, and while that number stands, there is no new process.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from unsloth_watch.model.process import ProcessRef
from unsloth_watch.sense.procfs import Stat, descriptor_share, read_once, read_stat

WALK_AT_LEAST_EVERY = 5
"""Ticks after which the tree is walked whatever the last PID says: a ``children`` read can miss the sibling of a dying child."""


class ProcessTree:
    """Knows who belongs to the job.

    Args:
        anchors: PIDs below which the job lives (the guardian). They are no members unless ``has_anchors`` is set. Their identity
            is taken now.
        excluded: Says which children of the supervisor are its own helpers (py-spy, a notifier), asked at every walk.
        own_pid: The supervisor: once no anchor lives its children are the job's orphans, as it is their subreaper. None
            where the job is somebody else's (``attach``).
        has_anchors: Whether the anchors are members too (``attach``).
        has_children_files: Whether the kernel offers ``children`` files; None finds out.
    """

    def __init__(
        self,
        anchors: tuple[int, ...],
        excluded: Callable[[], set[int]] = set,
        *,
        own_pid: int | None = None,
        has_anchors: bool = False,
        has_children_files: bool | None = None,
    ) -> None:
        self._anchors = tuple(ProcessRef(stat.pid, stat.start_ticks) for stat in map(read_stat, anchors) if stat is not None)
        self._excluded = excluded
        self._own_pid = own_pid
        self._has_anchors = has_anchors
        if has_children_files is None:
            # CONFIG_PROC_CHILDREN is off in some kernels, and gVisor has none of these files.
            me = os.getpid()
            has_children_files = os.path.exists(f"/proc/{me}/task/{me}/children")
        self._has_children_files = has_children_files
        self._kept: dict[ProcessRef, int] = {}
        self._free = descriptor_share(0.125)
        self._last_pid: int | None = None
        # A loadavg that is mounted over (lxcfs) is refreshed every few seconds only.
        self._knows_last_pid = os.stat("/proc/loadavg").st_dev == os.stat("/proc").st_dev
        self._since_walk = WALK_AT_LEAST_EVERY

    def members(self) -> tuple[ProcessRef, ...]:
        """Return all processes of the job, zombies included, by PID.

        Raises:
            OSError: /proc cannot be read.
        """
        excluded = self._excluded()
        alive = [ref for ref in self._kept if self._is_alive(ref) and ref.pid not in excluded]
        last_pid = self._read_last_pid()
        if last_pid is None or last_pid != self._last_pid or self._since_walk >= WALK_AT_LEAST_EVERY:
            # The number is read before the walk: who is born during it changes the number for the next tick.
            self._last_pid, self._since_walk = last_pid, 0
            found = self._walk(alive, excluded)
        else:
            self._since_walk += 1
            found = set(alive)
        for ref in [ref for ref in self._kept if ref not in found]:
            self._forget(ref)
        for ref in found:
            self._remember(ref)
        return tuple(sorted(found))

    def close(self) -> None:
        """Give all descriptors back."""
        for ref in list(self._kept):
            self._forget(ref)

    def _walk(self, alive: list[ProcessRef], excluded: set[int]) -> set[ProcessRef]:
        """Return everything reachable from the living anchors (or our own children without one) and from the members alive."""
        known = {ref.pid: ref for ref in alive}
        anchors = {ref.pid: ref for ref in self._anchors if _is_running(ref)}
        roots = list(anchors)
        if not roots and self._own_pid is not None:
            roots.append(self._own_pid)
        children_of = _children if self._has_children_files else _ParentTable().children
        if self._has_anchors:
            known.update(anchors)
        # Who may be the parent of a member. A child that was orphaned since its number was read shows up below an anchor next time.
        parents = {*roots, *known}
        queue = [*roots, *(pid for pid in known if pid not in roots)]
        while queue:
            parent = queue.pop()
            for pid in children_of(parent):
                if pid in known or pid in excluded or pid in anchors or pid == self._own_pid:
                    continue
                stat = read_stat(pid)
                # The number may be another process's by now: only a child of ours has one of ours as its parent.
                if stat is None or stat.ppid not in parents:
                    continue
                known[pid] = ProcessRef(pid, stat.start_ticks)
                parents.add(pid)
                queue.append(pid)
        return set(known.values())

    def _is_alive(self, ref: ProcessRef) -> bool:
        """Return whether that very process is still there. A kept descriptor cannot mean anybody else."""
        descriptor = self._kept[ref]
        if descriptor < 0:
            stat = read_stat(ref.pid)
            return stat is not None and stat.start_ticks == ref.start_ticks
        try:
            os.pread(descriptor, 1, 0)
        except ProcessLookupError:
            return False
        return True

    def _remember(self, ref: ProcessRef) -> None:
        if ref in self._kept:
            return
        self._kept[ref] = -1
        if self._free <= 0:
            return
        try:
            descriptor = os.open(f"/proc/{ref.pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            is_same = Stat(os.pread(descriptor, 2048, 0)).start_ticks == ref.start_ticks
        except ProcessLookupError:
            is_same = False
        if is_same:
            self._kept[ref] = descriptor
            self._free -= 1
        else:
            os.close(descriptor)

    def _forget(self, ref: ProcessRef) -> None:
        descriptor = self._kept.pop(ref)
        if descriptor >= 0:
            os.close(descriptor)
            self._free += 1

    def _read_last_pid(self) -> int | None:
        """Return the PID given out last in this namespace; None where the kernel does not say (gVisor prints 0)."""
        if not self._knows_last_pid:
            return None
        try:
            return int(read_once("/proc/loadavg", 128).split()[4]) or None
        except (OSError, IndexError, ValueError):
            return None


def _is_running(ref: ProcessRef) -> bool:
    stat = read_stat(ref.pid)
    return stat is not None and stat.start_ticks == ref.start_ticks and stat.state not in "ZX"


def _children(pid: int) -> list[int]:
    """Return the children of every task of a process; none where it is gone."""
    found: list[int] = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return found
    for task in tasks:
        try:
            descriptor = os.open(f"/proc/{pid}/task/{task}/children", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            continue
        try:
            parts = []
            # One read ends at 4 kB, about 700 children.
            while part := os.read(descriptor, 65536):
                parts.append(part)
        except ProcessLookupError:
            pass
        finally:
            os.close(descriptor)
        found.extend(map(int, b"".join(parts).split()))
    return found


class _ParentTable:
    """Children by parent, from one scan of all of /proc: the way without ``children`` files, 5 to 10 µs a process of the host."""

    def __init__(self) -> None:
        self._children: dict[int, list[int]] = {}
        for name in os.listdir("/proc"):
            if name.isdigit():
                stat = read_stat(int(name))
                if stat is not None:
                    self._children.setdefault(stat.ppid, []).append(stat.pid)

    def children(self, pid: int) -> list[int]:
        """Return the PIDs whose parent is ``pid``."""
        return self._children.get(pid, [])
