"""Every cache that the command would use: usable, with space, and free of locks and leftovers."""

from __future__ import annotations

import os
from collections.abc import Iterator

from unsloth_watch.capture.cacheregistry import CACHES
from unsloth_watch.capture.caches import probe_before_launch
from unsloth_watch.model.checkup import Finding, Fix, Level
from unsloth_watch.model.evidence import CacheProbe, LockFile
from unsloth_watch.supervise.checkup.scene import Scene
from unsloth_watch.tell.quantity import format_quantity

_KINDS = {kind.id: kind for kind in CACHES}
_FALLS_BACK = ("unsloth-compiled", "unsloth-fallback", "unsloth-mega", "numba", "cuda")
"""Caches whose library goes on without them."""


def check_caches(scene: Scene) -> Iterator[Finding]:
    """Yield the state of each cache, where it is, and why there."""
    if scene.interpreter is None:
        return
    choices = {choice.cache: choice for choice in scene.choices}
    for probe in probe_before_launch(scene.to_process(), scene.versions):
        choice = choices.get(probe.cache)
        found = [*_find_trouble(probe, is_ours=choice is not None and choice.path is not None)]
        yield from found
        if not found:
            why = "" if choice is None else f"; --cache: {choice.why}"
            space = "" if probe.free_bytes is None else f", {format_quantity(probe.free_bytes, 'B')} free"
            state = (
                f"{probe.path} ({'there' if probe.exists else 'will be made'}{space}, {probe.filesystem or 'file system unknown'})"
            )
            yield Finding("caches", probe.cache, Level.FINE, state, source=probe.origin + why)


def _find_trouble(probe: CacheProbe, *, is_ours: bool) -> Iterator[Finding]:
    kind = _KINDS[probe.cache]
    grave = Level.WARNING if probe.cache in _FALLS_BACK else Level.ERROR
    held = {f"PID {lock.pid}, not of this job, holds {lock.path}" for lock in probe.lock_holders}
    stale = {f"{file.path} is there and nobody has it open" for file in probe.lock_files}
    rest = [problem for problem in probe.problems if problem not in held | stale]
    if probe.is_importable is False:
        yield Finding(
            "caches", probe.cache, Level.ERROR, "; ".join(rest) or f"{probe.path} cannot be imported",
            "this version imports its cache as a package, and without it the job never starts",
            f"PYTHONPATH={os.path.dirname(probe.path)}" if not probe.shadowed_by else f"remove {probe.shadowed_by}", probe.origin,
        )  # fmt: skip
    elif rest:
        level = grave if probe.is_writable is False else Level.WARNING
        yield Finding(
            "caches", probe.cache, level, f"{probe.path}: {'; '.join(rest)}",
            "the library goes on without it" if probe.cache in _FALLS_BACK else "what the job keeps there fails or waits",
            f"make room or permission, or move it with {kind.variables[0].name if kind.variables else 'TMPDIR'}", probe.origin,
        )  # fmt: skip
    elif not probe.exists and any(variable.name == probe.origin for variable in kind.variables) and not is_ours:
        yield Finding(
            "caches", probe.cache, Level.NOTE, f"{probe.path} is not there yet", "a misspelt path would look the same",
            "create it, or doctor --fix", probe.origin, Fix("make-directory", probe.path),
        )  # fmt: skip
    for phrase in sorted(held):
        yield Finding(
            "caches",
            probe.cache,
            Level.WARNING,
            phrase,
            "the job will wait for it",
            "end that process, or use another place",
            probe.origin,
        )
    for file in probe.lock_files:
        yield _judge_lock(probe, file, blocks=kind.lock == "exists")
    if probe.half_written:
        count = len(probe.half_written)
        yield Finding(
            "caches", probe.cache, Level.WARNING if kind.rebuilds else Level.NOTE,
            f"{count} half-written file{'s' if count > 1 else ''}, such as {probe.half_written[0]}",
            "left by a killed process, or being written now" + ("" if kind.rebuilds else "; a download goes on from there"),
            "unsloth-watch cache repair" if kind.rebuilds else "", probe.origin,
        )  # fmt: skip


def _judge_lock(probe: CacheProbe, file: LockFile, *, blocks: bool) -> Finding:
    is_free = file.openers == () and not file.is_owner_alive
    if not is_free:
        who = f"PID {', '.join(map(str, file.openers or ()))} has it open" if file.openers else "its owner may live"
        return Finding(
            "caches", probe.cache, Level.NOTE, f"{file.path} is a lock: {who}", "somebody builds there", "", probe.origin
        )
    return Finding(
        "caches", probe.cache, Level.ERROR if blocks else Level.WARNING, f"{file.path} is a lock without an owner",
        "whoever needs it waits for ever" if blocks else "whoever needs it may wait for ever",
        "see that no job waits for it, then doctor --fix", probe.origin, Fix("quarantine-lock", file.path),
    )  # fmt: skip
