"""The job's processes: everything below the anchors, and everything that was below them and still lives.

The whole truth is a walk through the kernel's ``children`` files, of every task, as any thread may fork; that costs 10 µs a
*thread*. So most ticks do less:

- ``/proc/loadavg`` ends with the PID that was given out last in this PID namespace; while that number stands, nobody was born.
- Who was born is whoever is in the list of /proc and was not in the one before; only those are asked for their parent.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable

from unsloth_watch.model.process import ProcessRef
from unsloth_watch.sense.stat import descriptor_share, read_stat

WALK_EVERY = 15
"""Ticks after which the tree is walked all the same: a ``children`` read can miss the sibling of a dying child, and a PID that came
round again between two lists is in both."""
SEARCH_EVERY = 2
"""Ticks from one search for newcomers to the next where a caller can wait: a list of /proc costs 0.3 ms on a host of 200 processes,
and on most hosts somebody is born every second. Children that ended meanwhile have left their CPU with their parent."""
_LIST_US = 0.6
_TASK_US = 6.0
"""Cost of one entry of a list of /proc, and of one task in a walk: the cheaper of the two is taken."""


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
        last_pid: Says which PID was given out last, None where that cannot be known.
    """

    def __init__(
        self,
        anchors: tuple[int, ...],
        excluded: Callable[[], set[int]] = set,
        *,
        own_pid: int | None = None,
        has_anchors: bool = False,
        has_children_files: bool | None = None,
        last_pid: Callable[[], int | None] | None = None,
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
        # A pidfd of each member; one question to the kernel says which of them have ended (20 processes: 6 µs, a read each: 120).
        self._kept: dict[ProcessRef, int] = {}
        self._ends = select.poll()
        self._newest: tuple[ProcessRef, ...] = ()
        self._free = descriptor_share(0.125)
        self._last_pid: int | None = None
        self._living_anchors: tuple[ProcessRef, ...] = ()
        self._read_last_pid = last_pid if last_pid is not None else read_last_pid
        self._since_walk = WALK_EVERY
        self._since_search = SEARCH_EVERY
        self._listed: set[str] = set()
        self._tasks = 0

    def members(self, *, can_wait: bool = False) -> tuple[ProcessRef, ...]:
        """Return all processes of the job, zombies included, by PID.

        Args:
            can_wait: Whether somebody who was born since the last call may be missing until the next.

        Raises:
            OSError: /proc cannot be read.
        """
        try:
            return self._list_members(can_wait=can_wait)
        except OSError:
            # A list was begun and not finished: who was born since is in none. The next question walks the tree anew.
            self._since_walk = WALK_EVERY
            raise

    @property
    def known(self) -> tuple[ProcessRef, ...]:
        """Who was there at the last answer: all that is known where /proc cannot be read."""
        return self._newest

    def _list_members(self, *, can_wait: bool) -> tuple[ProcessRef, ...]:
        excluded = self._excluded()
        ended = {descriptor for descriptor, _ in self._ends.poll(0)}
        alive = [ref for ref in self._kept if self._is_there(ref, ended) and ref.pid not in excluded]
        self._since_search += 1
        is_resting = can_wait and self._since_search < SEARCH_EVERY
        # Who is born while nobody is searched for changes the number for the next search all the same.
        last_pid = self._last_pid if is_resting else self._read_last_pid()
        anchors = tuple(filter(_is_running, self._anchors))
        is_still = is_resting or (last_pid is not None and last_pid == self._last_pid)
        is_cheap = self._tasks * _TASK_US < len(self._listed) * _LIST_US
        # The number is read before the search: who is born during it changes the number for the next tick.
        self._last_pid = last_pid
        self._since_walk += 1
        if anchors != self._living_anchors or self._since_walk >= WALK_EVERY or (is_cheap and not is_still):
            self._living_anchors, self._since_walk, self._since_search = anchors, 0, 0
            found = self._walk(alive, excluded)
        elif not is_still:
            self._since_search = 0
            found = self._add_newcomers(alive, excluded)
        elif len(alive) == len(self._kept):
            return self._newest  # nobody was born, nobody is gone
        else:
            found = set(alive)
        for ref in [ref for ref in self._kept if ref not in found]:
            self._forget(ref)
        for ref in found:
            self._remember(ref)
        self._newest = tuple(sorted(found, key=lambda ref: ref.pid))
        return self._newest

    def close(self) -> None:
        """Give all descriptors back. Who is forgotten with them is no newcomer: the next question walks the tree anew."""
        for ref in list(self._kept):
            self._forget(ref)
        self._newest, self._since_walk = (), WALK_EVERY

    def _roots(self) -> list[int]:
        """Return the PIDs below which the job lives: the living anchors, or ourselves without one."""
        roots = [ref.pid for ref in self._living_anchors]
        return roots if roots or self._own_pid is None else [self._own_pid]

    def _walk(self, alive: list[ProcessRef], excluded: set[int]) -> set[ProcessRef]:
        """Return everything reachable from the roots and from the members alive."""
        # What is born from here on is in no list yet, and is found as a newcomer.
        self._listed = set(os.listdir("/proc"))
        self._tasks = 0
        known = {ref.pid: ref for ref in alive}
        roots = self._roots()
        parents_of_all = None if self._has_children_files else _read_parents()
        if self._has_anchors:
            known.update({ref.pid: ref for ref in self._living_anchors})
        parents = {*roots, *known}
        queue = list(parents)
        while queue:
            parent = queue.pop()
            children, tasks = _read_children(parent) if parents_of_all is None else (parents_of_all.get(parent, []), 1)
            self._tasks += tasks
            for pid in children:
                ref = None if pid in parents or pid in excluded else self._identify(pid, parents)
                if ref is not None:
                    known[pid] = ref
                    parents.add(pid)
                    queue.append(pid)
        return set(known.values())

    def _add_newcomers(self, alive: list[ProcessRef], excluded: set[int]) -> set[ProcessRef]:
        """Return the members alive and those processes that appeared since the last list and have one of ours as their parent."""
        listed = set(os.listdir("/proc"))
        newcomers = {int(name) for name in listed - self._listed if name.isdigit()} - excluded
        self._listed = listed
        found = set(alive)
        parents = {*self._roots(), *(ref.pid for ref in alive)}
        is_growing = True
        while is_growing and newcomers:
            # Once more, as a newcomer's parent may be a newcomer too.
            refs = [ref for pid in newcomers - parents if (ref := self._identify(pid, parents)) is not None]
            found.update(refs)
            parents.update(ref.pid for ref in refs)
            is_growing = bool(refs)
        return found

    def _identify(self, pid: int, parents: set[int]) -> ProcessRef | None:
        """Return the process under a PID if its parent is one of ours.

        The number may be another process's by now: only a child of ours has one of ours as its parent. One that was orphaned since
        shows up below an anchor the next time.
        """
        stat = read_stat(pid)
        if stat is None or stat.ppid not in parents:
            return None
        ref = ProcessRef(pid, stat.start_ticks)
        return None if ref in self._anchors else ref

    def _is_there(self, ref: ProcessRef, ended: set[int]) -> bool:
        """Return whether that very process is still there, be it as a zombie."""
        descriptor = self._kept[ref]
        return (descriptor >= 0 and descriptor not in ended) or _is_identical(ref)

    def _remember(self, ref: ProcessRef) -> None:
        if ref in self._kept:
            return
        self._kept[ref] = -1
        if self._free <= 0:
            return
        try:
            descriptor = os.pidfd_open(ref.pid)
        except OSError:  # it is gone, the kernel is older than 5.3, or a container's filter refuses: its stat line tells
            return
        if _is_identical(ref):
            self._kept[ref] = descriptor
            self._ends.register(descriptor, select.POLLIN)
            self._free -= 1
        else:
            os.close(descriptor)

    def _forget(self, ref: ProcessRef) -> None:
        descriptor = self._kept.pop(ref)
        if descriptor >= 0:
            self._ends.unregister(descriptor)
            os.close(descriptor)
            self._free += 1


def read_last_pid() -> int | None:
    """Return the PID given out last in this namespace; None where nobody says: gVisor prints 0, lxcfs mounts an old copy."""
    try:
        descriptor = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.fstat(descriptor).st_dev != os.stat("/proc").st_dev:
                return None
            return int(os.read(descriptor, 128).split()[4]) or None
        finally:
            os.close(descriptor)
    except (OSError, IndexError, ValueError):
        return None


def _is_identical(ref: ProcessRef) -> bool:
    stat = read_stat(ref.pid)
    return stat is not None and stat.start_ticks == ref.start_ticks


def _is_running(ref: ProcessRef) -> bool:
    stat = read_stat(ref.pid)
    return stat is not None and stat.start_ticks == ref.start_ticks and stat.state not in "ZX"


def _read_children(pid: int) -> tuple[list[int], int]:
    """Return the children of every task of a process, and the number of its tasks; none where it is gone."""
    found: list[int] = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # ``hidepid`` refuses another user's, as in ``read_stat``
        return found, 0
    for task in tasks:
        try:
            descriptor = os.open(f"/proc/{pid}/task/{task}/children", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
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
    return found, len(tasks)


def _read_parents() -> dict[int, list[int]]:
    """Return children by parent from all of /proc: the way without ``children`` files, 5 to 10 µs a process of the host."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        stat = read_stat(int(name)) if name.isdigit() else None
        if stat is not None:
            children.setdefault(stat.ppid, []).append(stat.pid)
    return children
