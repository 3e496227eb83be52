"""Remedies by id: what each would do for a given cache, process and version, or None where it would not help.

Paths that only the supervisor knows are written as `PRIVATE`; `act.mend` puts the run's private directory in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from unsloth_watch.diagnose.libraryremedies import SETTINGS
from unsloth_watch.model.diagnosis import Remedy
from unsloth_watch.model.evidence import CacheProbe, LockFile, ProcessEvidence
from unsloth_watch.model.invocation import read_invocation
from unsloth_watch.model.release import is_within

PRIVATE = "{private}"
"""Stands for a private writable directory that `act.mend` is given."""
LOCATION_SINCE = ">=2025.7.11"
"""unsloth_zoo reads ``UNSLOTH_COMPILE_LOCATION`` since 2025.7.11; in 2025.7.10 the name is a constant."""


class Need(msgspec.Struct, frozen=True):
    """What a remedy is chosen by.

    Attributes:
        process: The process that waits.
        version: Installed version of the library; None if unknown.
        library: Its name.
        probe: The cache in question; None if there is none.
        lock_file: The lock file in question; None if there is none.
        upgrade: Requirement that mends it for good.
    """

    process: ProcessEvidence
    library: str = ""
    version: str | None = None
    probe: CacheProbe | None = None
    lock_file: LockFile | None = None
    upgrade: str = ""

    @property
    def named(self) -> str:
        """Library and version for people."""
        return f"{self.library} {self.version}" if self.version else f"{self.library} (version unknown)"

    @property
    def advice(self) -> str:
        """The command that mends it for good."""
        return f"pip install -U '{self.upgrade}'" if self.upgrade else ""


def choose_remedies(ids: Iterable[str], need: Need) -> tuple[Remedy, ...]:
    """Return the remedies of the given ids that would help, in their order.

    Raises:
        KeyError: An id is unknown: a fault of this program's own knowledge.
    """
    found = [BUILDERS[name](need) if name in BUILDERS else SETTINGS[name](need.process, need.version) for name in ids]
    return tuple(remedy for remedy in found if remedy is not None)


def relaunch(why: str) -> Remedy:
    """Return the remedy that changes nothing: one relaunch as it was, for causes that chance may not bring back."""
    return Remedy(id="relaunch", why=why, kind="environment")


def _reads_environment(process: ProcessEvidence) -> bool:
    return process.command is None or not read_invocation(process.command).ignores_environment


def _import_path(need: Need) -> Remedy | None:
    """Put the job's directory in front of ``PYTHONPATH``; a redirect would make it worse on these versions."""
    probe, cwd = need.probe, need.process.cwd
    if probe is None or cwd is None or probe.is_importable or probe.shadowed_by or not _reads_environment(need.process):
        return None
    return Remedy(
        id="import-path",
        why=(
            f"{need.named} imports the cache as a package, and {cwd} is not on the import path; "
            f"this version does not read UNSLOTH_COMPILE_LOCATION, so the cache cannot be moved instead"
        ),
        kind="environment",
        prepend_path={"PYTHONPATH": cwd},
        advice=need.advice,
    )


def _quarantine_shadow(need: Need) -> Remedy | None:
    """Move a foreign package of the cache's name aside, where it lies in the job's own tree.

    No variable helps: the cache has no ``__init__.py``, so a regular package of its name wins from any place on the import path.
    """
    probe, cwd = need.probe, need.process.cwd
    if probe is None or cwd is None or probe.shadowed_by is None or not _is_below(probe.shadowed_by, cwd):
        return None
    return Remedy(
        id="quarantine-shadow",
        why=f"{probe.shadowed_by} has the cache's name and is found by {need.named} in its place",
        kind="filesystem",
        quarantine=(probe.shadowed_by,),
        prepend_path={"PYTHONPATH": cwd} if _reads_environment(need.process) else {},
        advice=need.advice,
    )


def _remove_shadow(need: Need) -> Remedy | None:
    """Say what a person has to do about a foreign package elsewhere: it may belong to others."""
    probe, cwd = need.probe, need.process.cwd
    if probe is None or probe.shadowed_by is None or (cwd is not None and _is_below(probe.shadowed_by, cwd)):
        return None
    return Remedy(
        id="remove-shadow",
        why=f"{probe.shadowed_by} has the cache's name and is found by {need.named} in its place",
        kind="advice",
        advice=f"remove {probe.shadowed_by} or take its directory off the import path"
        + (f", or {need.advice}" if need.advice else ""),
    )


def _is_below(path: str, directory: str) -> bool:
    return path.startswith(directory.rstrip("/") + "/")


def _quarantine_obstacle(need: Need) -> Remedy | None:
    probe = need.probe
    if probe is None or not probe.exists or probe.is_directory:
        return None
    return Remedy(
        id="quarantine-obstacle",
        why=f"{probe.path} is no directory, and {need.named} needs one of that name",
        kind="filesystem",
        quarantine=(probe.path,),
        make_directories=(probe.path,),
    )


def _make_writable(need: Need) -> Remedy | None:
    """Say what a person has to do: permissions and disks are not for a supervisor to change."""
    probe = need.probe
    if probe is None or probe.is_writable is not False or (probe.exists and not probe.is_directory):
        return None
    return Remedy(
        id="make-writable",
        why=f"{need.named} can only use {probe.path}, and {'; '.join(probe.problems) or 'it cannot be written'}",
        kind="advice",
        advice=f"make {probe.path} writable with free space on its disk, or start the command in a directory that is",
    )


def _redirect_compile_cache(need: Need) -> Remedy | None:
    if is_within(need.version, LOCATION_SINCE) is not True:
        return None
    return Remedy(
        id="redirect-compile-cache",
        why=f"{need.named} reads UNSLOTH_COMPILE_LOCATION, so the next attempt can have a cache of its own",
        kind="environment",
        environment={"UNSLOTH_COMPILE_LOCATION": f"{PRIVATE}/unsloth_compiled_cache"},
        overrides=("UNSLOTH_COMPILE_LOCATION",),
        make_directories=(f"{PRIVATE}/unsloth_compiled_cache",),
    )


def _default_lock_timeout(need: Need) -> Remedy | None:
    """Take a timeout away that never ends: the default of 10 s is followed by a fallback of the library's own."""
    value = (need.process.environment or {}).get("UNSLOTH_LOCK_TIMEOUT", "")
    if not value.startswith("-"):
        return None
    return Remedy(
        id="default-lock-timeout",
        why=f"UNSLOTH_LOCK_TIMEOUT={value} makes {need.named} wait for ever; by default it falls back to another place after 10 s",
        kind="environment",
        environment={"UNSLOTH_LOCK_TIMEOUT": None},
    )


def _redirect_temp(need: Need) -> Remedy | None:
    return Remedy(
        id="redirect-temp",
        why=f"{need.named} keeps this cache below the temporary directory, and TMPDIR moves that",
        kind="environment",
        environment={"TMPDIR": f"{PRIVATE}/temporary"},
        overrides=("TMPDIR",),
        make_directories=(f"{PRIVATE}/temporary",),
    )


def _quarantine_lock_file(need: Need) -> Remedy | None:
    if need.lock_file is None:
        return None
    return Remedy(
        id="quarantine-lock-file",
        # Deleting it under a live waiter lets the waiter skip the build and fail to open the library.
        why=f"{need.lock_file.path} has no owner; it may only go once the waiting process has ended, so that the next one builds",
        kind="filesystem",
        quarantine=(need.lock_file.path,),
    )


def _wandb_offline(need: Need) -> Remedy | None:
    del need
    return Remedy(
        id="wandb-offline",
        why="wandb asks nothing and keeps the run on disk when it is offline",
        kind="environment",
        environment={"WANDB_MODE": "offline"},
        advice="wandb login, before the job starts; wandb sync uploads the run afterwards",
    )


def _upgrade_library(need: Need) -> Remedy | None:
    if not need.upgrade:
        return None
    return Remedy("upgrade-library", f"{need.named} does this, {need.upgrade} does not", "advice", advice=need.advice)


BUILDERS: dict[str, Callable[[Need], Remedy | None]] = {
    "import-path": _import_path,
    "quarantine-shadow": _quarantine_shadow,
    "remove-shadow": _remove_shadow,
    "quarantine-obstacle": _quarantine_obstacle,
    "make-writable": _make_writable,
    "redirect-compile-cache": _redirect_compile_cache,
    "default-lock-timeout": _default_lock_timeout,
    "redirect-temp": _redirect_temp,
    "quarantine-lock-file": _quarantine_lock_file,
    "wandb-offline": _wandb_offline,
    "upgrade-library": _upgrade_library,
}
"""Every remedy that depends on more than the process and the version, by id; the others are `SETTINGS`."""
REMEDIES = frozenset(BUILDERS) | frozenset(SETTINGS)
"""Ids of all of them."""
