"""What caches there are for this user, environment and directory, and who uses which entry of them."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator, Mapping

import msgspec

from unsloth_watch.act.isolation import MARKER
from unsloth_watch.act.project import find_cache_home
from unsloth_watch.capture.cacheentry import Entry, list_entries, measure
from unsloth_watch.capture.cacheregistry import CACHES, CacheKind, find_place
from unsloth_watch.capture.hubcache import list_hub_entries
from unsloth_watch.capture.locks import read_locks
from unsloth_watch.capture.usage import ProcessUse, Usage, read_usage
from unsloth_watch.tell.directory import find_base

_FIRST_PERSON = 1000
"""First user id of people rather than services (login.defs)."""
PROJECTS = CacheKind("project", "", (), "", "flock", entries=(r"[0-9a-f]{12}-[^/]+",), sign=MARKER)
"""Compile caches that ``--cache auto`` gave to projects."""
PRIVATE = CacheKind("private", "", (), "", "none", entries=(r"[0-9a-f]{12}",))
"""Compile caches that a remedy made after a hang."""


class Stock(msgspec.Struct, frozen=True):
    """One cache and where it lies.

    Attributes:
        kind: What it is.
        path: Its place, as the environment says it.
        origin: What says so: a variable, ``default``, or ``unsloth-watch``.
    """

    kind: CacheKind
    path: str
    origin: str

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What of it comes and goes as one; read anew at each call."""
        return list_hub_entries(self.path) if self.kind.id == "hf-hub" else list_entries(self.kind, self.path)


def find_stocks(environment: Mapping[str, str], cwd: str) -> tuple[Stock, ...]:
    """Return the caches that a job with this environment and directory would use, and those that this program made."""
    found: dict[tuple[str, str], Stock] = {}
    for kind in CACHES:
        if kind.id != "temp":
            place = find_place(kind, environment, cwd, _name_user(), {})
            found.setdefault((kind.id, place.path), Stock(kind, place.path, place.origin))
    state = os.path.dirname(find_base(environment))
    return (
        *found.values(),
        Stock(PROJECTS, find_cache_home(environment), "unsloth-watch"),
        Stock(PRIVATE, os.path.join(state, "caches"), "unsloth-watch"),
    )


class Doubt:
    """What is in use at one moment.

    Attributes:
        usage: Open files and the like.
        locked: Inodes of files that somebody has locked; None where ``/proc/locks`` may not be read.
    """

    def __init__(self) -> None:
        self.usage: Usage = read_usage()
        self.locked: frozenset[int] | None
        try:
            self.locked = frozenset(line.inode for line in read_locks())
        except OSError:
            self.locked = None
        self._users: dict[str, set[int]] = {}

    def find_users(self, stock: Stock) -> set[int]:
        """Return the PIDs that will come back to a cache although they may have nothing of it open now.

        They have mapped the library that keeps it, and their environment and directory lead to it.
        """
        if stock.path not in self._users:
            self._users[stock.path] = {process.pid for process in self.usage.processes if _leads_to(process, stock)}
        return self._users[stock.path]


def explain_use(stock: Stock, entry: Entry, doubt: Doubt, *, name: str | None = None, has_marker: bool = False) -> str | None:
    """Return why an entry may be in use, None where it is surely not.

    Args:
        stock: Its cache.
        entry: The entry.
        doubt: What is in use.
        name: Where the entry lies now; None for its own path.
        has_marker: Whether the lock in it is ours: whoever else used it would hold it.
    """
    if not entry.extent.is_complete or doubt.locked is None:
        return "not all of it can be read" if doubt.locked is not None else "/proc/locks cannot be read"
    if stock.kind.lock == "exists" and any(os.path.lexists(os.path.join(entry.path, lock)) for lock in stock.kind.lock_names):
        return "a lock file lies in it; if nobody builds, see unsloth-watch cache repair"
    users = doubt.usage.find_users(name or entry.path, entry.extent.inodes) | doubt.usage.find_named(entry.path)
    users |= doubt.find_users(stock)
    if entry.guard:
        # A download that waits for its first byte has nothing open but its lock.
        users |= doubt.usage.find_users(entry.guard, measure(entry.guard).inodes)
    if users:
        return f"PID {', '.join(map(str, sorted(users)[:4]))} uses it"
    if not has_marker and not doubt.locked.isdisjoint(inode for _, inode in entry.extent.inodes):
        return "somebody holds a lock in it"
    unread = [pid for pid, uid in doubt.usage.unreadable if pid != 1 and _may_use(uid, stock, entry)]
    return f"PID {', '.join(map(str, unread[:4]))} may use it and cannot be read; try as root" if unread else None


def _leads_to(process: ProcessUse, stock: Stock) -> bool:
    if not any(part in name for part in stock.kind.users for name in process.mapped) or process.cwd is None:
        return False
    ignored = {variable.name: False for variable in stock.kind.variables}
    # A library may have removed the variable from its environment since.
    places = (find_place(stock.kind, process.environment, process.cwd, _name_user(process.uid), what) for what in ({}, ignored))
    return any(os.path.realpath(place.path) == os.path.realpath(stock.path) for place in places)


def _may_use(uid: int, stock: Stock, entry: Entry) -> bool:
    """Whether a process of that user, of which nothing is known, has to be reckoned with."""
    if uid in entry.extent.owners:
        return True
    try:
        mode = os.stat(stock.path).st_mode
    except OSError:
        return True
    if stock.kind.rebuilds:
        return bool(mode & 0o022)
    return uid >= _FIRST_PERSON and all(os.stat(place).st_mode & 0o011 for place in _ancestors(stock.path))


def _ancestors(path: str) -> Iterator[str]:
    place = os.path.realpath(path)
    while place != "/":
        yield place
        place = os.path.dirname(place)


def _name_user(uid: int | None = None) -> str:
    try:
        return pwd.getpwuid(os.geteuid() if uid is None else uid).pw_name
    except KeyError:
        return str(uid)
