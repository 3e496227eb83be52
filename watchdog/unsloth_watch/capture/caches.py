"""The caches that concern a job, probed where the job itself has them: can they be written, imported, locked?

Nothing is imported, followed or repaired. File systems are asked, so the caller gives this a deadline.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Mapping, Sequence

import msgspec

from unsloth_watch.capture.cacheregistry import CACHES, CacheKind, Place, find_place
from unsloth_watch.capture.halfwritten import find_half_written
from unsloth_watch.capture.importpath import job_import_path
from unsloth_watch.capture.lockfiles import describe_lock_files, find_lock_files, list_directories
from unsloth_watch.capture.locks import join_locks, list_lock_files, read_locks
from unsloth_watch.capture.mount import NETWORK_TYPES, find_mount, read_free, read_mounts
from unsloth_watch.capture.package import find_package, is_same_file
from unsloth_watch.capture.versions import list_pythons, read_versions
from unsloth_watch.capture.writeprobe import Identity, probe_write, read_identity
from unsloth_watch.errors import CannotLookError
from unsloth_watch.model.evidence import CacheProbe, FileLock, ProcessEvidence
from unsloth_watch.model.release import is_within

MAX_PROCESSES = 4
"""Processes whose caches are looked for: ranks share theirs, and workers their parent's."""
_LOW_BYTES = 64 * 1024 * 1024
# Less free space than one compiled kernel cache of a small model needs.


def probe_caches(processes: Sequence[ProcessEvidence]) -> tuple[CacheProbe, ...]:
    """Return the state of every cache that the job's libraries use; each place once.

    Args:
        processes: Captured processes, the root first.

    Raises:
        CannotLookError: The job lives in another mount namespace or root directory, where our paths mean other files.
    """
    pythons = list_pythons(processes)
    visible = [process for process in pythons if _is_same_view(process.ref.pid)]
    if pythons and not visible:
        raise CannotLookError("caches: the job has its own mount namespace or root directory; run unsloth-watch inside it")
    versions = read_versions(processes)
    own = read_identity("self")
    members = {process.ref.pid for process in processes}
    found: dict[tuple[str, str], CacheProbe] = {}
    for process in visible[:MAX_PROCESSES]:
        _probe_all(_Scene(process, versions, read_identity(process.ref.pid), own), members, found)
    return tuple(found.values())


def probe_before_launch(process: ProcessEvidence, versions: Mapping[str, str]) -> tuple[CacheProbe, ...]:
    """Return the state of every cache that a command would use, with our rights: it does not run yet.

    Args:
        process: What the command will be: its argument vector, program, directory and environment.
        versions: Versions of its libraries.
    """
    own = read_identity("self")
    found: dict[tuple[str, str], CacheProbe] = {}
    _probe_all(_Scene(process, versions, own, own), set(), found)
    return tuple(found.values())


def _probe_all(scene: _Scene, members: set[int], found: dict[tuple[str, str], CacheProbe]) -> None:
    for kind in CACHES:
        if not kind.library or kind.library in scene.versions:
            place = scene.place(kind)
            key = (kind.id, place.path)
            if key not in found:
                found[key] = _probe(kind, place, scene, members)


class _Scene(msgspec.Struct, frozen=True):
    """The process through whose eyes caches are seen."""

    process: ProcessEvidence
    versions: Mapping[str, str]
    job: Identity | None
    own: Identity | None

    def place(self, kind: CacheKind) -> Place:
        environment = self.process.environment or {}
        applies = {
            variable.name: False if variable.unless in self.versions else is_within(self.versions.get(kind.library), variable.since)
            for variable in kind.variables
        }
        return find_place(kind, environment, self.process.cwd or "/", _name_user(self.process.uid), applies)


def _probe(kind: CacheKind, place: Place, scene: _Scene, members: set[int]) -> CacheProbe:
    path, problems = place.path, list[str]()
    status = _lstat(path)
    is_directory = os.path.isdir(path)
    if status is not None and not is_directory:
        problems.append(f"there is {_name_kind(status)} where the directory should be")
    home = path if is_directory else _nearest_directory(path)
    written = probe_write(home, scene.job, scene.own)
    is_writable = written.is_writable
    if written.problem:
        problems.append(written.problem if is_directory else f"it cannot be made: {home}: {written.problem}")
    if status is not None and not is_directory:
        is_writable = False
    free_bytes, free_inodes = read_free(home)
    if free_bytes is not None and free_bytes < _LOW_BYTES:
        problems.append(f"{free_bytes} bytes are free on its file system")
    mount = find_mount(os.path.realpath(home), read_mounts())
    if mount is not None and mount.type in NETWORK_TYPES and kind.lock in {"flock", "exists"}:
        problems.append(f"it lies on {mount.type}, where locks depend on another machine")
    probe = CacheProbe(
        cache=kind.id,
        path=path,
        origin=place.origin,
        exists=status is not None,
        is_directory=is_directory,
        is_writable=is_writable,
        free_bytes=free_bytes,
        free_inodes=free_inodes,
        filesystem=mount.type if mount else None,
        files=_count_files(path) if is_directory else None,
        half_written=find_half_written(path) if is_directory and kind.id != "temp" else (),
    )
    return _add_locks(kind, _add_import(kind, probe, scene, problems), problems, members)


def _add_import(kind: CacheKind, probe: CacheProbe, scene: _Scene, problems: list[str]) -> CacheProbe:
    """Add whether the job can import the cache, for the versions of its library that do."""
    if not kind.package or not is_within(scene.versions.get(kind.library), kind.package) or scene.process.cwd is None:
        return probe
    import_path = job_import_path(scene.process)
    lookup = find_package(probe.path, import_path)
    is_importable: bool | None = lookup.is_found
    if lookup.shadowed_by is not None:
        problems.append(f"the import path finds {lookup.shadowed_by} in its place")
    elif not lookup.is_found and not any(is_same_file(os.path.dirname(probe.path), entry) for entry in import_path):
        problems.append(f"{os.path.dirname(probe.path)} is not on the job's import path")
    elif not probe.exists:
        is_importable = None  # it would be found once it is there
    if scene.process.command is None or scene.process.environment is None:
        is_importable = None if not lookup.is_found else True
    return msgspec.structs.replace(probe, is_importable=is_importable, import_path=import_path, shadowed_by=lookup.shadowed_by)


def _add_locks(kind: CacheKind, probe: CacheProbe, problems: list[str], members: set[int]) -> CacheProbe:
    """Add who holds locks below it, and everything that is wrong."""
    holders: tuple[FileLock, ...] = ()
    files: tuple[str, ...] = ()
    if probe.is_directory and kind.lock in {"flock", "exists"}:
        directories = list_directories(probe.path, kind.lock_depth)
        holders = _find_holders(probe.path, directories, members)
        files = tuple(find_lock_files(directories, kind.lock_names)) if kind.lock_names else ()
        outside = [lock for lock in holders if not lock.is_inside]
        problems += [f"PID {lock.pid}, not of this job, holds {lock.path}" for lock in outside]
    lock_files = describe_lock_files(files)
    problems += [f"{file.path} is there and nobody has it open" for file in lock_files if file.openers == ()]
    return msgspec.structs.replace(probe, lock_holders=holders, lock_files=lock_files, problems=tuple(problems))


def _find_holders(path: str, directories: Sequence[str], members: set[int]) -> tuple[FileLock, ...]:
    try:
        lines = read_locks()
    except OSError:
        return ()
    locks = join_locks(lines, list_lock_files(directories), members)
    return tuple(lock for lock in locks if not lock.is_waiter and lock.path is not None and lock.path.startswith(path + "/"))


def _is_same_view(pid: int) -> bool:
    """Whether a path means the same file for a process as for us; True where that cannot be read."""
    try:
        own, other = os.stat("/proc/self/ns/mnt"), os.stat(f"/proc/{pid}/ns/mnt")
        return own.st_ino == other.st_ino and is_same_file("/proc/self/root", f"/proc/{pid}/root")
    except OSError:
        return True


def _lstat(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None


def _nearest_directory(path: str) -> str:
    while not os.path.isdir(path) and path != "/":
        path = os.path.dirname(path)
    return path


def _count_files(path: str) -> int | None:
    try:
        with os.scandir(path) as entries:
            return sum(1 for _ in entries)
    except OSError:
        return None


def _name_kind(status: os.stat_result) -> str:
    kinds = ((stat.S_ISLNK, "a link that leads nowhere"), (stat.S_ISREG, "a file"), (stat.S_ISFIFO, "a named pipe"))
    return next((name for is_kind, name in kinds if is_kind(status.st_mode)), "something that is no directory")


def _name_user(uid: int | None) -> str:
    try:
        return pwd.getpwuid(os.geteuid() if uid is None else uid).pw_name
    except KeyError:
        return str(uid)
