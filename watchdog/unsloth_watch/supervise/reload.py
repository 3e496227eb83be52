"""Reading the configuration again during a run, without touching the job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unsloth_watch.config.settings import Settings
from unsloth_watch.errors import WatchError
from unsloth_watch.supervise import clock

if TYPE_CHECKING:
    from unsloth_watch.supervise.run import Run

RELOADABLE = frozenset({"stall-timeout", "busy-timeout", "grace", "on-hang", "restart-on", "max-restarts", "locals", "live-repair"})
"""Options that are looked at anew for each decision. The others were built into the run at its start: its directory, streams,
caches and sensors; they count from the next start on."""


def reload_settings(run: Run) -> tuple[dict[str, object], list[str]]:
    """Read all sources of the settings again and adopt what can be adopted.

    Returns:
        New values by option name, and the names of changed options that a running job cannot follow.

    Raises:
        WatchError: The configuration is wrong now, or was never read from anywhere; nothing was changed.
    """
    if run.launch.reread is None:
        raise WatchError("this run was not started from a command line, so there is nothing to read again")
    fresh = run.launch.reread()
    before = {name: entry["value"] for name, entry in run.settings.describe().items()}
    after = {name: entry["value"] for name, entry in fresh.describe().items()}
    differing = sorted(name for name in after if after[name] != before[name])
    changed: dict[str, object] = {name: after[name] for name in differing if name in RELOADABLE}
    deferred = [name for name in differing if name not in RELOADABLE]
    if changed:
        _adopt(run, fresh, changed)
    if run.manager.is_present:
        run.manager.reloading(clock.monotonic())
        run.manager.reloaded()
    run.chronicle.event("settings.reloaded", changed=changed, deferred=deferred)
    return changed, deferred


def _adopt(run: Run, fresh: Settings, changed: dict[str, object]) -> None:
    values, sources = {}, {}
    for name in run.settings.describe():
        field = name.replace("-", "_")
        origin = fresh if name in changed else run.settings
        values[field] = getattr(origin, field)
        if field in origin.sources:
            sources[field] = origin.sources[field]
    run.adopt(Settings(values, sources))
